"""The ranks of one machine meet at an address, not at a name that the machine may not know."""

from nanochat_core.base.torchrun import Nodes, torchrun


def test_ranks_of_one_machine_need_no_name() -> None:
    command = torchrun("a.b", num_processes=2)
    assert "localhost" not in " ".join(command)
    assert "nanochat_core.base.one_node" in command


def test_several_nodes_meet_where_they_are_told() -> None:
    nodes = Nodes(num=2, rank=1, rendezvous="first:29500", run_id="x")
    command = torchrun("a.b", num_processes=2, nodes=nodes)
    assert {"--master-addr=first", "--master-port=29500", "--node-rank=1"} <= set(command)
    assert not [part for part in command if part.startswith("--local-addr")]
