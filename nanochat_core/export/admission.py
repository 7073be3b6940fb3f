"""Whether the modelling file that travels with an export computes what the model computes; else there is no export."""

import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.export import huggingface
from nanochat_core.model.gpt import GPT, constants_of
from nanochat_core.model.probe import probe_config, why_not
from nanochat_core.tokenizer.tokenizer import Tokenizer

PACKAGES = ("transformers", "transformers.modeling_outputs")


def check_modeling_file(config: GPTConfig, tokenizer: Tokenizer) -> None:
    """Raise `ConfigError` where the file's logits are not those of `GPT` at the shape of `config`."""

    def compute(model: GPT, ids: Tensor) -> Tensor:
        settings = huggingface.model_config(model.config, tokenizer, dtype="float32")
        exported = _exported(settings)
        exported.load_state_dict(model.state_dict() | constants_of(model.config))
        return exported.eval()(input_ids=ids.unsqueeze(0)).logits[0]  # type: ignore[no-any-return]

    # a tokenizer of the true vocabulary names tokens that the probe's lacks; they are only numbers here
    if reason := why_not(probe_config(config), compute):
        raise ConfigError(
            f"{huggingface.MODELING} does not compute this model: {reason}",
            hint="change the file in nanochat_core/export as the model was changed, or export with --to safetensors",
        )


def _exported(settings: Mapping[str, Any]) -> nn.Module:
    """The file's model, over stand-ins for transformers' classes where those are not loaded.

    A forward pass without a cache needs no more of them, and the library is an extra that takes seconds to import.
    """
    spec = spec_from_file_location("exported_modeling", Path(__file__).with_name(huggingface.MODELING))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    stand_ins = {} if "transformers" in sys.modules else dict.fromkeys(PACKAGES, _stand_in())
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
    model = module.NanochatForCausalLM(module.NanochatConfig(**settings))
    assert isinstance(model, nn.Module)
    return model


def _stand_in() -> ModuleType:
    module = ModuleType("transformers")
    vars(module).update(
        DynamicCache=None, GenerationMixin=object, PretrainedConfig=_Config, PreTrainedModel=_Model,
        CausalLMOutputWithPast=SimpleNamespace,
    )  # fmt: skip
    return module


class _Config:
    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


class _Model(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def post_init(self) -> None:
        """Nothing: every weight is loaded."""
