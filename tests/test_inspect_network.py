"""`finetune-inspect --summary` and `--plot`: rows, what is trained, the frontier, drawings, runs, and refusals."""

import collections
import dataclasses
import functools
import io
import itertools
import json
import math
import random
import re
import shutil
import sys
from xml.etree import ElementTree

import pytest
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console
from tiny_runs import write_run

from finetune.commands.inspect import main
from finetune.errors import UserError
from finetune.model.checkpoint import write_checkpoint
from finetune.model.depth import scopes_of_layers
from finetune.model.model import Model
from finetune.model.scopes import in_any_scope, plan_variables
from finetune.nets import get_spec
from finetune.nets.heads import Head, with_head
from finetune.nets.keras_networks.architecture import names_of_a_new_process
from finetune.summaries.drawing import make_drawing
from finetune.summaries.graphviz import dot_source
from finetune.summaries.groups import IMAGES
from finetune.summaries.layout import BOX_WIDTH, lay_out
from finetune.summaries.plot import network_figure
from finetune.summaries.summary import frontier_in_words, summarise
from finetune.summaries.table import layers_table, layers_tree
from finetune.trunk.split_model import SplitModel

# One of each family, the smallest, but for those whose graphs take half a minute: PNASNet and Inception-ResNet.
SLOW = (
    *("inception_v1", "inception_v2", "resnet_v2_50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_edgetpu_075"),
    "nasnet_mobile",
)
FAMILIES = [
    *("lenet", "cifarnet", "alexnet_v2", "overfeat", "vgg_a", "inception_v3", "resnet_v1_50", "mobilenet_v1_025"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]
every_family = pytest.mark.parametrize("name", FAMILIES)

Looked = collections.namedtuple("Looked", "summary plan frontier num_bytes shapes")


@functools.cache
def look(name, layers="last=2", batch_norm="plan", scopes=()):
    """The summary of a network without weights, its plan, the frontier of its SplitModel, shapes of its variables."""
    spec = get_spec(name)
    with tf.Graph().as_default():
        model = Model(spec, 5, initialise=False)
        shapes = {variable.name: variable.shape for variable in model.network_variables()}
        trained = scopes or scopes_of_layers(spec, layers)
        plan = plan_variables(model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=trained)
        model.freeze(plan, batch_norm)
        summary = summarise(model, plan)
        split = SplitModel(model, plan, is_training=True)
    return Looked(summary, plan, [tuple(spec.shape[1:]) for spec in split.frontier], split.num_bytes, shapes)


@every_family
def test_every_variable_is_in_the_row_of_its_scope(name):
    summary, plan, *_, shapes = look(name)
    of_scope = collections.defaultdict(list)
    for variable in plan.variables:
        of_scope[variable.name.rpartition("/")[0]].append(variable)
    assert [layer.index for layer in summary.layers] == list(range(len(of_scope)))
    assert {layer.name for layer in summary.layers} == set(of_scope)
    for layer in summary.layers:
        variables = of_scope[layer.name]
        assert layer.num_parameters == sum(math.prod(shapes[variable.name]) for variable in variables), layer
        statistics = sum(math.prod(shapes[variable.name]) for variable in variables if variable.is_statistic)
        assert layer.num_statistics == statistics, layer
        trained = in_any_scope(layer.name, plan.trainable_scopes)
        assert layer.in_training == ("trained" if trained else "frozen"), layer
        assert layer.num_trained == (layer.num_parameters - statistics if trained else 0), layer
    totals = summary.totals()
    assert totals["parameters"] == sum(map(math.prod, shapes.values()))
    assert totals["trained"] == sum(variable.num_parameters for variable in plan.trained)
    moved = [variable for variable in plan.variables if variable.is_statistic and variable.is_trained]
    assert summary.num_moved_statistics == sum(variable.num_parameters for variable in moved)
    assert sum(group.num_parameters for group in summary.groups) == totals["parameters"]


@every_family
def test_kinds_and_shapes_are_those_of_the_variables(name):
    """What a layer gives has as many channels as its kernel says, or as it has statistics."""
    summary, *_, shapes = look(name)
    leaves = {
        ("depthwise_weights", "pointwise_weights"): "Separable",
        ("depthwise_weights",): "Depthwise",
        ("moving_mean", "moving_variance"): "BatchNorm",
    }
    for layer in summary.layers:
        own = {
            variable.rpartition("/")[2]: shape
            for variable, shape in shapes.items()
            if variable.rpartition("/")[0] == layer.name
        }
        found = tuple(leaf for leaf in own if leaf.endswith("_weights") or leaf.startswith("moving_"))
        rank = len(own.get("weights", ()))
        assert layer.kind == leaves.get(found, {4: "Conv2D", 2: "Dense"}.get(rank)), layer
        if found == ("depthwise_weights",):
            channels = math.prod(own["depthwise_weights"][2:])
        else:
            channels = own[{"Separable": "pointwise_weights", "BatchNorm": "moving_mean"}.get(layer.kind, "weights")][
                -1
            ]
        assert layer.output_shape[-1] == channels, layer


@every_family
def test_the_frontier_is_that_of_training(name):
    summary, _, frontier, num_bytes, _ = look(name)
    assert sorted(kept.shape for kept in summary.kept) == sorted(frontier)
    assert summary.num_bytes == num_bytes
    trained = {group.index for group in summary.groups if group.in_training == "trained"}
    assert trained == {len(summary.groups) - 2, len(summary.groups) - 1}
    for kept in summary.kept:
        for source, target in kept.flows:
            assert source == kept.group
            assert (source, target) in {(flow.source, flow.target) for flow in summary.flows}
    # What leads from the images to what is trained is cut somewhere.
    readers = collections.defaultdict(list)
    cut = {ends for kept in summary.kept for ends in kept.flows}
    within = {kept.group for kept in summary.kept if not kept.flows}
    for flow in summary.flows:
        if (flow.source, flow.target) not in cut and flow.source not in within:
            readers[flow.source].append(flow.target)
    reached, waiting = {IMAGES}, [IMAGES]
    while waiting:
        new = set(readers[waiting.pop()]) - reached
        reached |= new
        waiting += new
    assert not any(isinstance(name, str) and summary.groups[group].num_trained for group in reached - {IMAGES} - within)


@every_family
def test_groups_are_those_of_the_record_and_hang_together(name):
    summary = look(name).summary
    spec = get_spec(name)
    assert [group.scopes for group in summary.groups] == list(spec.layer_groups)
    assert {flow.target for flow in summary.flows} == set(range(len(spec.layer_groups)))
    assert {flow.source for flow in summary.flows} == set(range(-1, len(spec.layer_groups) - 1))
    assert all(flow.source < flow.target for flow in summary.flows)
    assert summary.groups[-1].output_shape == (5,)


def test_flows_of_networks_that_are_no_chains():
    flows = {(flow.source, flow.target): flow.shape for flow in look("inception_v3").summary.flows}
    names = [group.name for group in look("inception_v3").summary.groups]
    places = [names.index(name) for name in ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "Logits + AuxLogits")]
    sixth, *seventh, head = places
    assert {target for source, target in flows if source == sixth} == {seventh[0], head}
    assert flows[sixth, head] == (5, 5, 768)
    assert flows[seventh[2], head] == (1, 1, 2048)
    assert flows[seventh[0], seventh[1]] == (8, 8, 1280)
    residual = look("resnet_v1_50").summary.flows
    assert [(flow.source, flow.target) for flow in residual] == [(n - 1, n) for n in range(18)]


@pytest.mark.parametrize(
    ("batch_norm", "shapes", "moved"), [("plan", [(4, 4, 1024)], True), ("frozen", [(4, 4, 1024)], False)]
)
def test_statistics_that_stay_or_move(batch_norm, shapes, moved):
    summary = look("mobilenet_v1_025", batch_norm=batch_norm).summary
    assert bool(summary.num_moved_statistics) == moved
    assert [kept.shape for kept in summary.kept] == [(7, 7, 256)]


def test_slims_batch_norm_leaves_nothing_before_the_frontier():
    """But the first convolution, whose batch norm looks at other images, too."""
    (kept,) = look("mobilenet_v1_025", batch_norm="slim").summary.kept
    assert (kept.group, kept.shape, kept.flows) == (0, (112, 112, 8), frozenset())


def test_where_all_is_trained_the_frontier_is_the_images():
    summary = look("lenet", layers="all").summary
    assert [kept.group for kept in summary.kept] == [IMAGES]
    assert summary.num_bytes == 0
    assert frontier_in_words(summary) == (
        "frontier: the images themselves, for no layer stays as it is before all others",
    )
    drawing = make_drawing(summary, "all")
    assert not any(drawing.is_cut)
    assert not any(node.kept for node in drawing.nodes)


def test_a_part_of_a_group():
    scopes = ("MobilenetV1/Conv2d_13_pointwise", "MobilenetV1/Logits")
    summary, _, frontier, *_ = look("mobilenet_v1_025", scopes=scopes)
    assert [group.in_training for group in summary.groups[-3:]] == ["frozen", "partly", "trained"]
    (kept,) = summary.kept
    assert (kept.group, kept.shape, kept.flows) == (len(summary.groups) - 2, frontier[0], frozenset())


def test_a_record_that_leaves_a_variable_out():
    spec = dataclasses.replace(get_spec("lenet"), layer_groups=(("LeNet/conv1",), ("LeNet/fc3", "LeNet/fc4")))
    with tf.Graph().as_default():
        model = Model(spec, 5, initialise=False)
        plan = plan_variables(model.network_variables(), checkpoint_shapes=None)
        with pytest.raises(UserError, match="LeNet/conv2/weights lies in none of the groups of layers"):
            summarise(model, plan)


def lines_of(table, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@every_family
def test_a_terminal_of_80_columns_folds_no_name(name):
    summary = look(name).summary
    lines = lines_of(layers_tree(summary), 80)[3:]
    own = [line for line in lines if re.match(r" *\d+ ", line)]
    headings = [line for line in lines if line not in own]
    assert [int(line.split()[0]) for line in own] == list(range(len(summary.layers)))
    for line, layer in zip(own, summary.layers, strict=True):
        assert layer.name.endswith(line.split()[1])
        assert line.split()[2:] == [
            layer.kind,
            "×".join(map(str, layer.output_shape)),
            f"{layer.num_parameters:,}",
            layer.in_training,
        ]
    groups = {f"{group.num_parameters:,}" for group in summary.groups}
    assert all(line.split()[2] in groups and len(line.split()) == 4 for line in headings)
    in_file = lines_of(layers_table(summary), 200)[2:]
    assert [line.split()[1] for line in in_file] == [layer.name for layer in summary.layers]


@every_family
def test_what_is_written_in_boxes_fits_and_overlaps_nothing(name):
    drawing = make_drawing(look(name).summary, "--trainable-layers last=2")
    figure = network_figure(drawing)
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    to_inches = axes.transData.inverted()
    extents = {}
    for text in axes.texts:
        extent = text.get_window_extent(renderer).transformed(to_inches)
        extents[text] = (*sorted((extent.x0, extent.x1)), *sorted((extent.y0, extent.y1)))
    width, height = figure.get_size_inches()
    for left, right, top, bottom in extents.values():
        assert left >= 0 and right <= width and top >= 0 and bottom <= height
    for (_, one), (_, other) in itertools.combinations(extents.items(), 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]
    boxes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle)]
    wide = [box for box in boxes if math.isclose(abs(box.x1 - box.x0), BOX_WIDTH)]
    inside = [text for text in extents if any(in_box(extents[text], box) for box in wide)]
    written = [node.name for node in drawing.nodes] + [
        line for node in drawing.nodes for line in (*node.lines, *node.kept)
    ]
    assert sorted(text.get_text() for text in inside) == sorted(written)
    assert min(text.get_fontsize() for text in extents) >= 5.5


def in_box(extent, box):
    left, right, top, bottom = extent
    return box.x0 <= left and right <= box.x1 and min(box.y0, box.y1) <= top and bottom <= max(box.y0, box.y1)


@pytest.mark.parametrize("num_boxes", [2, 14, 15, 50, 71])
def test_arrows_go_through_no_box_and_along_no_other_arrow(num_boxes):
    chance = random.Random(num_boxes)
    arrows = {(box - 1, box) for box in range(1, num_boxes)}
    for _ in range(num_boxes):
        source, target = sorted(chance.sample(range(num_boxes), 2))
        arrows.add((source, target) if chance.random() < 0.9 else (target, source))
    arrows = sorted(arrows)
    heights = [chance.choice([0.6, 0.8]) for _ in range(num_boxes)]
    layout = lay_out(heights, arrows, top=1.0)
    assert all(box.left >= 0 and box.right <= layout.width and box.bottom <= layout.height for box in layout.boxes)
    assert min(box.top for box in layout.boxes) >= 1.0
    upright = collections.defaultdict(list)
    for (source, target), route in zip(arrows, layout.routes, strict=True):
        begin, end = layout.boxes[source], layout.boxes[target]
        assert route[0][0] in (begin.right, begin.left + BOX_WIDTH / 2)
        assert route[-1][0] in (end.left, end.right, end.left + BOX_WIDTH / 2)
        for (x0, y0), (x1, y1) in itertools.pairwise(route):
            assert min(x0, x1) >= 0 and max(x0, x1) <= layout.width and min(y0, y1) >= 0.9
            for box in layout.boxes:
                through = max(x0, x1) > box.left and min(x0, x1) < box.right
                assert not (through and max(y0, y1) > box.top and min(y0, y1) < box.bottom)
            if x0 == x1:
                upright[x0].append(sorted((y0, y1)))
    for stretches in upright.values():
        for one, other in itertools.pairwise(sorted(stretches)):
            assert one[1] <= other[0]


def run_json(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def words_of(capsys, *words):
    assert main([*map(str, words)]) == 0
    return capsys.readouterr().out


def test_summary_in_words_and_as_json(capsys):
    words = ["--model=lenet", "--num-classes=3", "--trainable-layers=last=2", "--summary"]
    lines = words_of(capsys, *words).splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["#", "layer", "kind", "output", "parameters", "state"],
        ["0", "LeNet/conv1", "Conv2D", "28×28×32", "832", "frozen"],
        ["1", "LeNet/conv2", "Conv2D", "14×14×64", "51,264", "frozen"],
        ["2", "LeNet/fc3", "Dense", "1024", "3,212,288", "trained"],
        ["3", "LeNet/fc4", "Dense", "3", "3,075", "trained"],
    ]
    assert lines[-4:] == [
        "network: lenet, 3 classes, images 28×28×1",
        "trained: --trainable-layers last=2",
        "frontier: 3136 behind conv2",
        "kept of an image by --cache-features: 12,544 bytes",
    ]
    found = run_json(capsys, *words)
    assert [layer["name"] for layer in found["layers"]] == ["LeNet/conv1", "LeNet/conv2", "LeNet/fc3", "LeNet/fc4"]
    assert found["totals"] == {
        "trained": 3_215_363,
        "frozen": 52_096,
        "statistics": 0,
        "parameters": 3_267_459,
        "moved_statistics": 0,
    }
    assert found["frontier"] == {
        "num_bytes": 12_544,
        "tensors": [{"behind": "conv2", "shape": [3136], "is_within": False}],
    }
    assert found["flows"][0] == {"from": "images", "to": "conv1", "shape": [28, 28, 1]}
    assert (found["trained_by"], found["plot"]) == ("--trainable-layers last=2", None)


@pytest.mark.parametrize(
    ("words", "trained"),
    [
        ([], [0, 1, 2, 3]),
        (["--trainable-scopes=LeNet/conv2,LeNet/fc4"], [1, 3]),
        (["--freeze-until=conv2"], [2, 3]),
        (["--recipe=head"], [3]),
        (["--recipe=head-then-all"], [0, 1, 2, 3]),
        (["--recipe=head-then-all", "--stage=1"], [3]),
        (["--stages=head:5,last=3:5"], [1, 2, 3]),
        (["--exclude-scopes=LeNet/fc4", "--trainable-layers=head"], [3]),
    ],
)
def test_what_is_trained_is_what_the_flags_of_a_plan_say(words, trained, capsys):
    found = run_json(capsys, "--model=lenet", "--summary", *words)
    assert [layer["index"] for layer in found["layers"] if layer["in_training"] == "trained"] == trained


def test_the_plan_takes_layers_by_depth_too(capsys):
    shown = [run_json(capsys, "--model=lenet", *words) for words in (["--trainable-layers=all"], ["--stages=all:1"])]
    assert shown[0]["counts"] == shown[1][0]["counts"]
    assert main(["--model=lenet", "--freeze-until=conv9"]) == 2
    assert "--freeze-until: lenet has no group of layers 'conv9'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def staged_run(tmp_path_factory):
    """A run of two stages, its checkpoint after 7 steps of the first, images of another size than the network's."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "staged", image_size=24, learning_rate=0.5)
    with (folder / "config.toml").open("a") as file:
        file.write('\n[[stages]]\nname = "top"\nsteps = 7\ntrainable_layers = "head"\n')
        file.write('\n[[stages]]\nsteps = 9\ntrainable_layers = "last=2"\n')
    return folder


def write_stages(folder, *bounds):
    stages = [
        {"name": name, "first_step": first, "last_step": last}
        for name, first, last in zip(("top", "last=2"), bounds, bounds[1:], strict=False)
    ]
    (folder / "stages.json").write_text(json.dumps({"stages": stages}))


@pytest.mark.parametrize(
    ("bounds", "words", "num_trained", "told"),
    [
        ((0, None), [], 1, "stage 1 of 2: top"),
        ((0, 7, None), [], 1, "stage 1 of 2: top"),
        ((0, 3, None), [], 2, "stage 2 of 2: last=2"),
        ((0, 3, 7), [], 2, "stage 2 of 2: last=2"),
        ((0, 7), ["--stage=2"], 2, "stage 2 of 2: last=2"),
    ],
)
def test_a_run_tells_what_is_trained(bounds, words, num_trained, told, staged_run, capsys):
    write_stages(staged_run, *bounds)
    found = run_json(capsys, staged_run, "--summary", *words)
    assert (found["model"], found["num_classes"], found["image_shape"]) == ("cifarnet", 3, [24, 24, 3])
    assert [layer["in_training"] for layer in found["layers"]].count("trained") == num_trained
    assert found["trained_by"] == f"as in {staged_run}, {told}"


WITH_ANOTHER_HEAD = ["head/hidden_1", "head/logits"]


def names_of_trained(found):
    return [layer["name"] for layer in found["layers"] if layer["in_training"] == "trained"]


def test_a_run_with_another_head(tmp_path, capsys):
    run = write_run(tmp_path, head="mlp:4", head_pooling="concat", image_size=24, trainable_layers="head")
    found = run_json(capsys, run, "--summary")
    assert names_of_trained(found) == WITH_ANOTHER_HEAD
    of_head = {layer["name"]: layer["num_parameters"] for layer in found["layers"] if layer["name"].startswith("head/")}
    assert of_head == {"head/hidden_1": (2 * 64 + 1) * 4, "head/logits": (4 + 1) * 3}


@pytest.mark.parametrize("words", [["--trainable-layers=head"], ["--recipe=head"], ["--trainable-scopes=head"]])
def test_flags_of_another_head(words, capsys):
    flags = ["--model=cifarnet", "--num-classes=3", "--head=mlp:4", *words]
    assert names_of_trained(run_json(capsys, *flags, "--summary")) == WITH_ANOTHER_HEAD
    if words[0] == "--trainable-layers=head":  # The plan alone takes it likewise, but wants weights.
        assert main(flags) == 2
        assert "conv1" in capsys.readouterr().err


def test_flags_win_over_the_run(staged_run, capsys):
    found = run_json(capsys, staged_run, "--summary", "--trainable-layers=last=3")
    assert [layer["in_training"] for layer in found["layers"]].count("trained") == 3
    assert found["trained_by"] == "--trainable-layers last=3"


def test_a_checkpoint_that_is_no_runs_is_recognised(run, tmp_path, capsys):
    for file in run.glob("model.ckpt-7.*"):
        shutil.copy(file, tmp_path / file.name)
    found = run_json(capsys, tmp_path / "model.ckpt-7", "--summary")
    assert (found["model"], found["num_classes"], found["trained_by"]) == ("cifarnet", 3, "all, for no flag says what")
    write_checkpoint(tmp_path / "other.ckpt", {"Other/weights": [0.0]})
    assert main([str(tmp_path / "other.ckpt"), "--summary"]) == 2
    assert "Name its network with --model" in capsys.readouterr().err


def test_a_runs_module_is_not_imported_unasked(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    config = (folder / "config.toml").read_text().replace('"cifarnet"', '"finetune.nets.table:SPECS"')
    (folder / "config.toml").write_text(config)
    assert main([str(folder), "--summary"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert main([str(folder), "--summary", "--trust-code"]) == 2
    assert "is a tuple, not a finetune.nets.spec.NetSpec" in capsys.readouterr().err


DRAWN = ["--model=mobilenet_v1_025", "--image-size=64", "--trainable-layers=last=2"]


@pytest.fixture
def path_without_dot(tmp_path, monkeypatch):
    """An empty folder, which is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def texts_of(svg):
    return {
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    }


def check_drawing(svg):
    names = {" + ".join(scope.partition("/")[2] for scope in group) for group in get_spec(DRAWN[0][8:]).layer_groups}
    texts = texts_of(svg)
    assert names <= texts
    assert {"frozen", "trained", "frontier: 2×2×256, 4,096 bytes"} <= texts
    assert any("2×2×256 behind Conv2d_12_depthwise" in text for text in texts)


def test_drawings_without_graphviz(tmp_path, path_without_dot, capsys):
    svg, png = tmp_path / "net.svg", tmp_path / "net.PNG"
    told = words_of(capsys, *DRAWN, f"--plot={svg}")
    assert told.splitlines()[-1] == f"drawn, without Graphviz: {svg}"
    assert "Conv2d_0" not in told.replace("Conv2d_12", "")
    check_drawing(svg.read_bytes())
    found = run_json(capsys, *DRAWN, f"--plot={png}")
    assert found["plot"] == str(png)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert {(0xDC, 0xE8, 0xF4), (0xFD, 0xE3, 0xCF), (0x1F, 0x29, 0x33)} <= colours
    before = svg.read_bytes()
    assert main([*DRAWN, f"--plot={svg}"]) == 0
    assert svg.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "net.PNG", "net.svg"]


def write_dot(folder, body):
    """A program of that name; what it is told lies in `told` then."""
    script = folder / "dot"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(folder / 'told')!r}, 'w').write(sys.stdin.read())\n{body}\n"
    )
    script.chmod(0o755)


def test_drawings_by_graphviz(tmp_path, path_without_dot, capsys):
    write_dot(path_without_dot, "print(sys.argv[1:], end='')")
    drawing = tmp_path / "net.svg"
    assert words_of(capsys, *DRAWN, f"--plot={drawing}").endswith(f"drawn, by Graphviz: {drawing}\n")
    assert drawing.read_text() == "['-Tsvg']"
    told = (path_without_dot / "told").read_text()
    assert told.startswith("digraph network {\n")
    nodes = re.findall(r"^(\d+) \[label", told, re.MULTILINE)
    assert nodes == [str(number) for number in range(1 + len(get_spec("mobilenet_v1_025").layer_groups))]
    assert "<B>Conv2d_13_depthwise + Conv2d_13_pointwise</B>" in told
    assert len(re.findall(r"^\d+ -> \d+ \[color=.*dashed", told, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit('no such plugin')", "no such plugin"),
        ("sys.exit(3)", "it ended with status 3"),
        ("pass", "it ended with status 0"),
    ],
)
def test_where_graphviz_fails_it_is_drawn_without(body, why, tmp_path, path_without_dot, capsys):
    write_dot(path_without_dot, body)
    drawing = tmp_path / "net.svg"
    assert main([*DRAWN, f"--plot={drawing}"]) == 0
    printed = capsys.readouterr()
    assert f"Graphviz can't draw the network, it is drawn without it: {why}" in printed.err
    assert f"drawn, without Graphviz: {drawing}" in printed.out
    check_drawing(drawing.read_bytes())


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not here")
def test_graphviz_itself_takes_what_it_is_told(tmp_path, capsys):
    drawing = tmp_path / "net.svg"
    assert "by Graphviz" in words_of(capsys, *DRAWN, f"--plot={drawing}")
    check_drawing(drawing.read_bytes())


def test_names_are_no_markup_to_graphviz():
    drawing = make_drawing(look("lenet").summary, 'runs/<a> & "b"')
    assert "runs/&lt;a&gt; &amp; &quot;b&quot;" in dot_source(drawing)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--plot=net.jpg"], "--plot: net.jpg ends neither in .png nor in .svg"),
        (["--plot=net"], "ends neither in .png nor in .svg"),
        (["--plot=nowhere/net.png"], "there is no folder nowhere.\n  Make it first"),
        (["--plot=folder.png"], "--plot: folder.png is a folder"),
        (["--summary", "--models"], "--models and --summary show different things"),
        (["--summary", "a", "b"], "--summary is of one network, not of 2"),
        (["--summary", "--num-draws=3"], "--num-draws would have no effect without --augment"),
        (["--summary", "--stage=2"], "--stage is 2, but the training has 1"),
        (["--summary", "--recipe=head", "--stage=2"], "--stage is 2, but the training has 1"),
        (["--stage=2"], "--stage would have no effect without --augment"),
        (["--augment", "--summary"], "--summary would have no effect with --augment"),
        (["--summary", "--trainable-layers=head", "--freeze-until=conv2"], "What is trained is said twice"),
        (["--summary", "--trainable-layers=tail"], "--trainable-layers is 'tail', not one of"),
        (["--summary", "--recipe=head", "--trainable-layers=head"], "Leave out --trainable-layers head"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_computed(words, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Model, "__init__", lambda *arguments, **named: pytest.fail("a network was built"))
    assert main(["--model=lenet", *words]) == 2
    printed = capsys.readouterr()
    assert what in printed.err
    assert not printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_folder_that_is_read_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr(Model, "__init__", lambda *arguments, **named: pytest.fail("a network was built"))
    assert main(["--model=lenet", f"--plot={tmp_path / 'net.png'}"]) == 2
    assert f"{tmp_path} is read-only.\n  Name a file in another folder" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--summary", "--plot=net.png"])
def test_a_summary_is_of_a_network(flag, capsys):
    assert main([flag]) == 2
    assert "is of a network.\n  Name it with --model, or give a run or a checkpoint" in capsys.readouterr().err


def test_layers_of_a_keras_network_are_those_of_its_model():
    import keras

    model = keras.applications.MobileNet(weights=None, input_shape=(96, 96, 3), classes=5, classifier_activation=None)
    rows = summary_of_spec(get_spec("keras/mobilenet"), 96)
    new = names_of_a_new_process(model.get_config())
    assert [row.name for row in rows] == [new.get(layer.name, layer.name) for layer in model.layers]
    assert [row.output_shape for row in rows] == [layer.output.shape[1:] for layer in model.layers]
    assert [row.num_parameters for row in rows] == [layer.count_params() for layer in model.layers]


def test_another_head_of_a_keras_network_stands_behind_its_layers():
    rows = summary_of_spec(with_head(get_spec("keras/mobilenet"), Head((16,))), 96)
    assert [row.name for row in rows][-3:] == ["conv_pw_13_relu", "head/hidden_1", "head/logits"]
    assert rows[-1].output_shape == (5,)


def summary_of_spec(spec, image_size):
    with tf.Graph().as_default():
        model = Model(spec, 5, image_size=image_size, initialise=False)
        shapes = {variable.name: variable.shape for variable in model.network_variables()}
        plan = plan_variables(
            model.network_variables(), checkpoint_shapes=shapes, trainable_scopes=scopes_of_layers(spec, "head")
        )
        model.freeze(plan)
        return summarise(model, plan).layers
