"""Networks from every layout: the same tensors and facts, and a refusal where a fact would have to be guessed."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.engine import checkpoint
from vstrain.systems.depth.export import export
from vstrain.systems.depth.network import build_network
from vstrain.systems.depth.weights import digest, digest_of, load_network, read_network


@pytest.fixture
def source(make_system):
    """A trained metric V2 network, all of its tensors different."""
    return make_system(seed=1, output="metric", max_depth=80, image_size=126)


@pytest.fixture
def places(source, tmp_path) -> dict[str, Path]:
    """`source` in every layout."""
    run = tmp_path / "run"
    step = run / "checkpoints" / checkpoints.name(7)
    run.mkdir()
    (run / "resolved.yaml").write_text(
        yaml.safe_dump({"verb": "train", "system": source.config.model_dump(mode="json")})
    )
    checkpoint.write(step, source.state_dict(), {"step": 7})
    folder = tmp_path / "export"
    export(source, folder)
    official = folder / "depth_anything_v2_metric_tiny.pth"
    plain = tmp_path / "plain"
    source.net.save_pretrained(plain)
    wrapped = tmp_path / "wrapped.pth"
    model = {f"module.{name}": tensor for name, tensor in torch.load(official).items()}
    torch.save({"model": model, "optimizer": {}, "epoch": 3, "previous_best": {"abs_rel": 0.1}}, wrapped)
    (tmp_path / "wrapped.json").write_text(
        '{"size": "tiny", "version": "v2", "output": "metric", "max_depth": 80, "image_size": 126}'
    )
    return {
        "run": run,
        "checkpoints": run / "checkpoints",
        "checkpoint": step,
        "export": folder,
        "safetensors": folder / "model.safetensors",
        "official": official,
        "wrapped": wrapped,
        "plain": plain,
    }


def test_every_layout_is_the_same_network(places):
    expected = load_file(places["plain"] / "model.safetensors")
    for name, path in places.items():
        network = read_network(str(path), "ckpt")
        assert network.state.keys() == expected.keys(), name
        assert all(torch.equal(network.state[n], expected[n]) for n in expected), name
        facts = network.facts
        assert (facts.size, facts.version, facts.output, facts.max_depth) == ("tiny", "v2", "metric", 80), name
        # transformers computes its own rule from a folder of its own, and such a folder does not know its training
        plain = name == "plain"
        assert (facts.pos_embed, facts.image_size) == (("hf", None) if plain else ("official", 126)), name
    assert len({digest(str(path)) for path in places.values()}) == 1


def test_the_digest_sees_a_bit_a_name_a_shape_and_no_order():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    known = digest_of(state)
    assert digest_of(dict(reversed(state.items()))) == known
    others = [
        state | {"a": -state["a"]},  # -0.0
        state | {"a": state["a"].reshape(3, 2)},
        {"a": state["a"], "c": state["b"]},
        state | {"b": state["b"].to(torch.float64)},
    ]
    assert len({known, *map(digest_of, others)}) == 5


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_version_of_a_plain_folder_is_read_off_its_config(tmp_path, version, monkeypatch):
    from vstrain.systems.depth import network

    deeper = network.Size(128, 5, 2, (0, 1, 3, 4), (8, 16, 32, 64), 16, grid=9)
    monkeypatch.setitem(network.SIZES, "tiny", deeper)
    build_network("tiny", version, "hf").save_pretrained(tmp_path)
    assert read_network(str(tmp_path), "ckpt").facts.version == version
    values = json.loads((tmp_path / "config.json").read_text())
    values["backbone_config"] |= {"out_indices": [1, 2, 3, 5], "out_features": ["stage1", "stage2", "stage3", "stage5"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        InputError, match=r"reads the blocks \[1, 2, 3, 5\], expected \[1, 2, 4, 5\] \(v2\) or \[2, 3, 4, 5\]"
    ):
        read_network(str(tmp_path), "ckpt")


def test_a_bare_official_file_is_never_guessed_at(places):
    path, beside = places["official"], places["official"].with_suffix(".json")
    known = json.loads(beside.read_text())
    beside.unlink()
    with pytest.raises(
        InputError, match=r"ckpt=.*pth: tensors do not show its size, version, output; say so in .*tiny.json"
    ):
        read_network(str(path), "ckpt")
    beside.write_text('{"size": "tiny", "output": "relative"}')
    with pytest.raises(InputError, match="do not show its version;"):
        read_network(str(path), "ckpt")
    stated = {"size": "tiny", "version": "v1", "output": "metric", "max_depth": 20}
    beside.unlink()
    facts = read_network(str(path), "ckpt", stated).facts
    assert facts.model_dump(exclude_none=True) == stated | {"pos_embed": "official"}
    beside.write_text(json.dumps(known))
    with pytest.raises(InputError, match=r"its version is v2, not v1; leave version out or give another file"):
        read_network(str(path), "ckpt", {"version": "v1"})
    assert read_network(str(path), "ckpt", {"pos_embed": "hf"}).facts.pos_embed == "hf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "vits"}, r"its tensors are not this network's: 8\d+ missing|\d+ missing .*check size"),
        ({"output": "metrik"}, "output Input should be 'relative' or 'metric'"),
        ({"output": "relative"}, "output=relative with max_depth=80: metric has one, relative has none"),
        ({"digest": "0" * 16}, r"not the file that .*json describes; bring back that file, or remove the .json"),
        ({"taps": [1]}, "taps Extra inputs are not permitted"),
    ],
)
def test_wrong_facts_are_named(places, change, message):
    beside = places["official"].with_suffix(".json")
    values = json.loads(beside.read_text())
    if "digest" not in change:
        values.pop("digest")
    beside.write_text(json.dumps(values | change))
    with pytest.raises(InputError, match=message):
        read_network(str(places["official"]), "ckpt")


def test_what_is_no_network_is_refused(places, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("absent", "empty"):
        with pytest.raises(
            InputError, match=rf"teacher=.*{path}: no depth network there; expected a run directory, one of"
        ):
            read_network(str(tmp_path / path), "teacher")
    values = yaml.safe_load((places["run"] / "resolved.yaml").read_text())
    values["system"]["module"] = "vstrain.systems.story"
    (places["run"] / "resolved.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"a run of vstrain.systems.story; expected one of vstrain.systems.depth"):
        read_network(str(places["run"]), "teacher")


@pytest.mark.parametrize("name", ["run", "export", "official", "plain"])
def test_a_network_loads_whole_or_as_encoder(places, source, name):
    theirs = source.net.state_dict()
    torch.manual_seed(5)
    net = build_network("tiny", "v2", "official", 80)
    load_network(net, str(places[name]), "system.init", encoder_only=False)
    for n, tensor in net.state_dict().items():
        assert torch.equal(tensor, theirs[n]), n
    torch.manual_seed(6)
    net = build_network("tiny", "v2", "official")  # relative: its encoder fits all the same
    before = {n: x.clone() for n, x in net.state_dict().items()}
    load_network(net, str(places[name]), "system.init", encoder_only=True)
    for n, tensor in net.state_dict().items():
        assert torch.equal(tensor, theirs[n] if n.startswith("backbone.") else before[n]), n


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("vits", "v2", "official", 80), "its encoder width is 128, this network's is 384"),
        (("tiny", "v2", "official", None), "its kind of output is metric, this network's is relative"),
        (("tiny", "v2", "official", 20), "its max_depth is 80, this network's is 20"),
    ],
)
def test_a_network_of_another_kind_is_refused(places, keys, message):
    with torch.device("meta"):
        net = build_network(*keys)
    with pytest.raises(InputError, match=rf"system.init=.*: {message}; set system.size, version"):
        load_network(net, str(places["export"]), "system.init", encoder_only=False)


def test_v1_weights_are_refused_by_a_v2_network(make_system, tmp_path, monkeypatch):
    from vstrain.systems.depth import network

    monkeypatch.setitem(network.SIZES, "tiny", network.Size(128, 5, 2, (0, 1, 3, 4), (8, 16, 32, 64), 16, grid=9))
    export(make_system(version="v1"), tmp_path)
    with pytest.raises(InputError, match=r"head reads \(version\) is \[2, 3, 4, 5\], this network's is \[1, 2, 4, 5\]"):
        make_system(version="v2", init=str(tmp_path / "depth_anything_v1_tiny.pth"), init_parts="all")


def test_missing_tensors_and_a_table_of_another_size_are_named(places):
    file = places["plain"] / "model.safetensors"
    state = load_file(file)
    table = "backbone.embeddings.position_embeddings"
    save_file(state | {table: torch.zeros(1, 1370, 128)}, file, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"its position table is \(1, 1370, 128\), this network's is \(1, 82, 128\); check size"
    ):
        read_network(str(places["plain"]), "ckpt")
    save_file({name: x for name, x in state.items() if name != "head.conv3.bias"}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"1 missing \['head.conv3.bias'\], 0 unknown"):
        read_network(str(places["plain"]), "ckpt")


def test_init_parts_decides_what_a_system_takes(places, make_system, source):
    keys = {"output": "metric", "max_depth": 80, "init": str(places["run"])}
    theirs = source.net.state_dict()
    for parts in ("encoder", "all"):
        mine = make_system(seed=3, init_parts=parts, **keys).net.state_dict()
        same = {name: torch.equal(mine[name], theirs[name]) for name in mine}
        assert all(same[name] for name in same if name.startswith("backbone."))
        assert same["head.conv2.weight"] == (parts == "all")


def test_adopted_weights_export_as_the_same_tensors(places, vstrain, tmp_path):
    run, words = (
        tmp_path / "adopted",
        ("system.size=tiny", "system.version=v2", "system.output=metric", "system.max_depth=80"),
    )
    places["official"].with_suffix(".json").unlink()
    adopt = ("adopt", "experiment=depth_metric", f"weights={places['official']}", f"run.dir={run}")
    assert "tensors do not show its size, version, output; say so in" in vstrain(*adopt, code=2).stderr
    vstrain(*adopt, *words)
    assert read_network(str(run), "ckpt").facts.max_depth == 80
    vstrain("export", f"ckpt={run}", f"output={tmp_path / 'again'}", "accelerator=cpu")
    again = torch.load(tmp_path / "again" / "depth_anything_v2_metric_tiny.pth")
    for name, tensor in torch.load(places["official"]).items():
        assert torch.equal(tensor, again[name]), name
    refused = vstrain("train", f"resume={run}", code=2)
    assert "adopted weights, without an optimiser to go on with" in refused.stderr


def test_adopt_refuses_what_is_not_there_and_a_system_that_cannot(places, vstrain, tmp_path):
    said = vstrain("adopt", "experiment=depth_teacher", "weights=nowhere.pth", code=2).stderr
    assert "weights: nowhere.pth does not exist; give a file, a folder or hub:OWNER/NAME" in said
    said = vstrain("adopt", "experiment=drag_editor", f"weights={places['official']}", code=2).stderr
    assert "cannot adopt weights: there is no vstrain.systems.drag.weights" in said
