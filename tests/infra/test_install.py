"""The build of torch that is installed: which index for which machine, and what somebody told pip is obeyed."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

PIN = "torch==9.8.7"
SMI = "| NVIDIA-SMI 560.35.03    Driver Version: 560.35.03    CUDA Version: 12.6     |\n"


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """infra/install.py, on a machine where nobody told pip, uv or make anything."""
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    spec = importlib.util.spec_from_file_location("install_project", ROOT / "infra/install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.shutil, "which", lambda _name: None)
    return module


def indexes(sources: "list[ModuleType]") -> list[str]:
    return [(source.index or source.kind).removeprefix("https://download.pytorch.org/whl/") for source in sources]


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        (("Linux",), ["cpu", "pip"]),
        (("Linux", True, 13), ["pip"]),
        (("Linux", True, None), ["pip"]),
        (("Linux", True, 12), ["cu129", "cu128", "cu126", "pip"]),
        (("Linux", True, 11), ["pip"]),
        (("Darwin",), ["pip"]),
    ],
)
def test_each_machine_gets_the_build_that_it_can_use(installer: ModuleType, machine: tuple, wanted: list[str]) -> None:
    this = installer.Machine(*machine)
    assert indexes(installer.choose(this)) == wanted
    with_uv = wanted if machine[0] != "Linux" else ["uv", *wanted]
    assert indexes(installer.choose(this, has_uv=True)) == with_uv
    assert indexes(installer.choose(this, configured={"find-links"}, has_uv=True)) == ["pip"]
    [named] = installer.choose(this, configured={"find-links"}, index="http://mirror/cu128", has_uv=True)
    assert (named.index, named.is_a_must) == ("http://mirror/cu128", True)


@pytest.mark.parametrize(
    ("version", "url", "build"),
    [
        ("2.13.0+cpu", "file:///opt/wheels/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl", "cpu"),
        ("2.13.0+cu130", "https://mirror/torch.whl", "cuda"),
        (
            "2.13.0",
            "https://files.pythonhosted.org/packages/torch-2.13.0-cp313-cp313-manylinux_2_28_x86_64.whl",
            "cuda",
        ),
        ("2.13.0", "https://files.pythonhosted.org/packages/torch-2.13.0-cp313-none-macosx_11_0_arm64.whl", "unknown"),
        ("2.13.0", "https://mirror/torch-2.13.0-cp313-cp313-manylinux_2_28_x86_64.whl", "unknown"),
    ],
)
def test_a_folder_of_wheels_without_a_fitting_one_does_not_bring_cuda(
    installer: ModuleType, version: str, url: str, build: str
) -> None:
    assert installer.build_of(version, url) == build
    told = {"find-links", "extra-index-url"}
    beside = installer.choose(installer.Machine("Linux"), configured=told, pips=build)
    assert indexes(beside) == (["cpu", "pip"] if build == "cuda" else ["pip"])
    assert indexes(installer.choose(installer.Machine("Linux", True, 13), configured=told, pips=build)) == ["pip"]
    assert indexes(installer.choose(installer.Machine("Linux"), configured={"index-url"}, pips=build)) == ["pip"]


def test_pip_says_which_build_it_would_take(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = published(tmp_path / "wheels", "9.8.7+cpu")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{index}/torch")
    assert installer.pips_build(PIN) == "cpu"
    assert installer.pips_build("torch==1.2.3") == "unknown"


def test_what_somebody_told_pip_is_seen_wherever_it_was_told(installer: ModuleType) -> None:
    listing = (
        ":env:.find-links='/wheels'\nglobal.cert='/ca.crt'\nuser.extra-index-url='https://a/simple\\nhttps://b/simple'\n"
        "install.no-index='true'\n"
    )
    assert installer.told_to_pip(listing) == {"find-links", "extra-index-url", "no-index"}
    silent = (
        "global.index-url='https://pypi.org/simple'\n:env:.no-index='0'\n:env:.find-links=''\nglobal.timeout='60'\n"
    )
    assert installer.told_to_pip(silent) == set()


def test_the_drivers_cuda_is_read_from_nvidia_smi(installer: ModuleType) -> None:
    assert installer.cuda_of(SMI) == 12
    assert installer.cuda_of(SMI.replace("CUDA Version: 12.6", "CUDA UMD Version: 13.1")) == 13
    assert installer.cuda_of("NVIDIA-SMI has failed") is None


def test_the_lock_has_one_torch_and_no_build_of_it(installer: ModuleType) -> None:
    assert "+" not in installer.locked_torch((ROOT / "requirements.lock").read_text())


def published(folder: Path, version: str) -> str:
    """An index that has a torch of this version, and nothing in it."""
    package, name = folder / "torch", f"torch-{version}"
    package.mkdir(parents=True)
    with zipfile.ZipFile(package / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    (package / "index.html").write_text(f'<a href="{name}-py3-none-any.whl">{name}-py3-none-any.whl</a>')
    return folder.as_uri()


def test_torch_comes_from_its_index_and_from_pips_own_where_that_does_not_answer(
    installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    monkeypatch.setattr(installer, "PIP", (*installer.PIP, "--python", str(venv / "bin/python")))
    monkeypatch.setattr(installer, "PYTORCH", published(tmp_path / "index/cpu", "9.8.70+cpu").removesuffix("/cpu"))
    with monkeypatch.context() as named:
        named.setenv("TORCH_INDEX", "file:///nowhere")
        with pytest.raises(SystemExit, match=r"file:///nowhere gave no torch==9.8.7: name another as TORCH_INDEX"):
            installer.install_torch(PIN)
    installer.install_torch(PIN)
    told = capfd.readouterr().out
    assert f"index/cpu cannot be reached, or has no {PIN} for this Python" in told
    assert f"{PIN} from PyPI, although there is no NVIDIA GPU. CUDA build: 5.7 GB on the disk" in told
    monkeypatch.setattr(installer, "PYTORCH", published(tmp_path / "other/cpu", "9.8.7+cpu").removesuffix("/cpu"))
    installer.install_torch(PIN)
    assert f"{PIN} as there is no NVIDIA GPU (file://{tmp_path}/other/cpu). CPU build: " in capfd.readouterr().out
    assert list(venv.glob("lib/*/site-packages/torch-9.8.7+cpu.dist-info"))
