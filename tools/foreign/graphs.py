"""Graph networks: torch-geometric."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tools.foreign.case import Case

NODES, EDGES, WIDTH, GRAPHS = 60, 240, 16, 4
Made = tuple[Callable[..., Any], tuple[Any, ...]]


def _nn() -> Any:
    """torch-geometric's layers; imported when a case of them is built."""
    return importlib.import_module("torch_geometric.nn")


def _features() -> torch.Tensor:
    return torch.randn(NODES, WIDTH)


def _edges() -> torch.Tensor:
    """Edges between nodes of the same graph."""
    size = NODES // GRAPHS
    return torch.randint(0, size, (2, EDGES)) + torch.randint(0, GRAPHS, (EDGES,)) * size


def _membership() -> torch.Tensor:
    """The graph of each node, in order."""
    return torch.arange(NODES) // (NODES // GRAPHS)


def _network(name: str, **how: Any) -> Made:
    """A model of two layers over features and edges."""
    torch.manual_seed(0)
    model = getattr(_nn(), name)(WIDTH, 32, 2, 8, **how)
    return model.eval(), (_features(), _edges())


def _layer(name: str, *sizes: Any, **how: Any) -> Made:
    """A layer by itself."""
    torch.manual_seed(0)
    model = getattr(_nn(), name)(*(sizes or (WIDTH, 8)), **how)
    return model.eval(), (_features(), _edges())


def _classifier() -> Made:
    """Graphs of different sizes as one, convolved, pooled and classified."""
    torch.manual_seed(0)
    nn = _nn()
    layers = [
        (nn.GCNConv(WIDTH, 32), "x, edges -> x"),
        torch.nn.ReLU(),
        (nn.GCNConv(32, 32), "x, edges -> x"),
        (nn.global_mean_pool, "x, batch -> x"),
        torch.nn.Linear(32, 4),
    ]
    model = nn.Sequential("x, edges, batch", layers)
    return model.eval(), (_features(), _edges(), _membership())


def _with_edge_features() -> Made:
    torch.manual_seed(0)
    model = _nn().GATv2Conv(WIDTH, 8, heads=2, edge_dim=3)
    return model.eval(), (_features(), _edges(), torch.randn(EDGES, 3))


def _relations() -> Made:
    torch.manual_seed(0)
    model = _nn().RGCNConv(WIDTH, 8, num_relations=3)
    return model.eval(), (_features(), _edges(), torch.arange(EDGES) % 3)


def _points() -> Made:
    """A layer of PointNet++ over given neighbours."""
    torch.manual_seed(0)
    model = _nn().PointNetConv(torch.nn.Linear(WIDTH + 3, 32), torch.nn.Linear(32, 32))
    return model.eval(), (_features(), torch.randn(NODES, 3), _edges())


def _molecules() -> Made:
    """SchNet over molecules whose neighbours are given, so that no compiled package is needed."""
    torch.manual_seed(0)
    edges, atoms = _edges(), torch.randint(1, 10, (NODES,))

    def neighbours(position: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return edges, (position[edges[0]] - position[edges[1]]).norm(dim=-1)

    model = _nn().SchNet(
        hidden_channels=16,
        num_filters=16,
        num_interactions=2,
        num_gaussians=10,
        interaction_graph=neighbours,
    )
    return model.eval(), (atoms, torch.randn(NODES, 3), _membership())


def _attentive() -> Made:
    torch.manual_seed(0)
    model = _nn().AttentiveFP(WIDTH, 16, 4, edge_dim=3, num_layers=2, num_timesteps=2)
    given = _features(), _edges(), torch.randn(EDGES, 3), _membership()
    return model.eval(), given


def _layered() -> Made:
    """DeepGCN's residual blocks."""
    torch.manual_seed(0)
    nn = _nn()
    conv, norm = nn.GENConv(WIDTH, WIDTH), torch.nn.LayerNorm(WIDTH)
    return nn.DeepGCNLayer(conv, norm, torch.nn.ReLU(), "res+").eval(), (_features(), _edges())


def _auto_encoder() -> Made:
    """Edges scored from encoded nodes."""
    torch.manual_seed(0)
    nn = _nn()
    model = nn.GAE(nn.GCNConv(WIDTH, 8)).eval()

    def scores(x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.decode(model.encode(x, edges), edges)
        return found

    return scores, (_features(), _edges())


def _u_net() -> Made:
    torch.manual_seed(0)
    return _nn().GraphUNet(WIDTH, 16, 8, depth=2).eval(), (_features(), _edges())


def _dense() -> Made:
    """Convolution and pooling over adjacency matrices."""
    torch.manual_seed(0)
    nn = _nn()
    conv = nn.DenseGCNConv(WIDTH, 8)

    def pooled(x: torch.Tensor, adjacency: torch.Tensor, choice: torch.Tensor) -> Any:
        return nn.dense_diff_pool(conv(x, adjacency), adjacency, choice)

    adjacency = (torch.rand(2, 20, 20) > 0.7).float()
    return pooled, (torch.randn(2, 20, WIDTH), adjacency, torch.randn(2, 20, 5))


def _aggregated(name: str, **how: Any) -> Made:
    """The nodes of each graph as one vector."""
    torch.manual_seed(0)
    layer = getattr(_nn(), name)(**how).eval()
    return partial(layer, index=_membership()), (_features(),)


def _normed(name: str, **how: Any) -> Made:
    torch.manual_seed(0)
    norm = getattr(_nn(), name)(**how).eval()
    return partial(norm, batch=_membership()), (_features(),)


def _utility(name: str, **how: Any) -> Made:
    """A function of torch_geometric.utils over nodes and their graphs."""
    torch.manual_seed(0)
    call = getattr(importlib.import_module("torch_geometric.utils"), name)
    given = {
        "softmax": (torch.randn(EDGES, 4), _edges()[1]),
        "to_dense_batch": (_features(),),
        "to_dense_adj": (_edges(),),
        "degree": (_edges()[0],),
        "scatter": (torch.randn(EDGES, 8), _edges()[1]),
        "add_self_loops": (_edges(),),
        "get_laplacian": (_edges(),),
        "coalesce": (_edges(),),
        "to_undirected": (_edges(),),
        "remove_self_loops": (_edges(),),
    }
    return partial(call, **how), given[name]


def _case(name: str, build: Callable[..., Made], *args: Any, **how: Any) -> Case:
    return Case(name, "torch-geometric", partial(build, *args, **how))


CASES = (
    _case("gcn", _network, "GCN"),
    _case("sage", _network, "GraphSAGE"),
    _case("gin", _network, "GIN"),
    _case("gat", _network, "GAT", heads=2),
    _case("gat v2", _network, "GAT", heads=2, v2=True),
    _case("edge convolution", _network, "EdgeCNN"),
    _case("pna", _network, "PNA", aggregators=["mean", "max", "std"],
          scalers=["identity", "amplification"], deg=torch.arange(1, 9)),
    _case("jumping knowledge", _network, "GCN", jk="cat", norm="layer_norm"),
    _case("gcn layer", _layer, "GCNConv"),
    _case("gat layer", _layer, "GATConv"),
    _case("transformer layer", _layer, "TransformerConv"),
    _case("chebyshev layer", _layer, "ChebConv", WIDTH, 8, K=3),
    _case("tag layer", _layer, "TAGConv"),
    _case("gated layer", _layer, "GatedGraphConv", WIDTH, 2),
    _case("gen layer", _layer, "GENConv"),
    _case("mean layer", _layer, "SimpleConv", "mean"),
    _case("graph classifier", _classifier),
    _case("edge features", _with_edge_features),
    _case("relations", _relations),
    _case("pointnet layer", _points),
    _case("schnet", _molecules),
    _case("attentive fingerprint", _attentive),
    _case("deep layer", _layered),
    _case("auto-encoder", _auto_encoder),
    _case("u-net", _u_net),
    _case("dense pooling", _dense),
    _case("sum of nodes", _aggregated, "SumAggregation"),
    _case("maximum of nodes", _aggregated, "MaxAggregation"),
    _case("softmax of nodes", _aggregated, "SoftmaxAggregation", learn=True),
    _case("set to set", _aggregated, "Set2Set", in_channels=WIDTH, processing_steps=2),
    _case("sorted nodes", _aggregated, "SortAggregation", k=5),
    _case("graph norm", _normed, "GraphNorm", in_channels=WIDTH),
    _case("pair norm", _normed, "PairNorm"),
    _case("softmax", _utility, "softmax"),
    _case("to_dense_batch", _utility, "to_dense_batch", batch=_membership()),
    _case("to_dense_adj", _utility, "to_dense_adj", batch=_membership()),
    _case("degree", _utility, "degree", num_nodes=NODES),
    _case("scatter", _utility, "scatter", dim_size=NODES, reduce="mean"),
    _case("add_self_loops", _utility, "add_self_loops", num_nodes=NODES),
    _case("get_laplacian", _utility, "get_laplacian", normalization="sym", num_nodes=NODES),
    _case("coalesce", _utility, "coalesce"),
    _case("to_undirected", _utility, "to_undirected"),
    _case("remove_self_loops", _utility, "remove_self_loops"),
)  # fmt: skip
