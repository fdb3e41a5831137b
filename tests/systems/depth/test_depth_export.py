"""Exports that other libraries open: transformers without vstrain, the official layout with its facts, ONNX of any size."""

import importlib.util
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vstrain.config.problems import InputError
from vstrain.interop.depth_anything import depth_names, to_hf
from vstrain.nn.augment import normalise
from vstrain.systems.depth import onnx
from vstrain.systems.depth.export import export
from vstrain.systems.depth.network import SIZES, build_network

with_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx.NEEDED), reason="needs vstrain[onnx]"
)
TRANSFORMERS_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vstrain":
            raise ImportError("vstrain is not here")

sys.meta_path.insert(0, Absent())
import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

folder, picture, out = sys.argv[1:]
model, image = AutoModelForDepthEstimation.from_pretrained(folder).eval(), Image.open(picture)
pixels = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    depth = model(pixels).predicted_depth
piped = pipeline("depth-estimation", model=folder)(image)
assert piped["depth"].size == image.size
np.savez(out, depth=depth.numpy(), piped=piped["predicted_depth"].numpy(), kind=model.config.depth_estimation_type,
         max_depth=model.config.max_depth)
assert "vstrain" not in sys.modules
"""


def lively(system):
    """`system` with a random head's output spread out, and positions that matter."""
    with torch.no_grad():
        system.net.backbone.embeddings.position_embeddings.normal_()
        system.net.head.conv3.weight.mul_(8).abs_()
    return system


@pytest.mark.parametrize(
    "keys", [{}, {"output": "metric", "max_depth": 20, "version": "v1"}], ids=["relative", "metric"]
)
def test_transformers_opens_an_export_without_vstrain(make_system, tmp_path, keys):
    from PIL import Image

    system = lively(make_system(image_size=126, **keys))
    assert all(path.is_file() for path in export(system, tmp_path / "out"))
    image = np.random.default_rng(0).integers(0, 256, (126, 126, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    words = [tmp_path / "out", tmp_path / "photo.png", tmp_path / "found.npz"]
    command = [sys.executable, "-W", "ignore", "-c", TRANSFORMERS_ALONE, *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        expected = system(torch.from_numpy(image)[None])
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(found["depth"]), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found["piped"]), expected[0], atol=1e-4, rtol=1e-4)
    metric = "max_depth" in keys
    assert (str(found["kind"]), int(found["max_depth"])) == (("metric", 20) if metric else ("relative", 1))


def test_the_official_file_has_its_facts_beside_it(make_system, tmp_path):
    system = make_system(output="metric", max_depth=80, camera=1.2, image_size=126)
    names = [path.name for path in export(system, tmp_path)]
    assert names[3:] == ["depth_anything_v2_metric_tiny.pth", "depth_anything_v2_metric_tiny.json"]
    official, hf = torch.load(tmp_path / names[3]), load_file(tmp_path / "model.safetensors")
    assert set(official) == set(depth_names(SIZES["tiny"].depth, False))
    back = to_hf(official)
    assert set(back) == set(hf) and all(torch.equal(back[name], hf[name]) for name in hf)
    facts = json.loads((tmp_path / names[4]).read_text())
    digest = facts.pop("digest")
    assert len(digest) == 16
    assert facts == {
        "size": "tiny",
        "version": "v2",
        "output": "metric",
        "max_depth": 80,
        "pos_embed": "official",
        "image_size": 126,
        "camera": 1.2,
    }
    assert json.loads((tmp_path / "config.json").read_text())["vstrain"] == facts | {"digest": digest}


@pytest.mark.parametrize(("rule", "max_depth"), [("official", None), ("hf", 20)])
def test_the_graph_that_is_exported_computes_the_network(rule, max_depth):
    """In PyTorch, at sizes below, at and above the position table's own, square and not."""
    torch.manual_seed(0)
    net = build_network("tiny", "v2", rule, max_depth).eval()
    net.backbone.embeddings.position_embeddings.data.normal_()
    graph = onnx.Graph(net)
    for height, width in ((14, 28), (70, 98), (126, 126), (126, 140), (252, 182)):
        tokens, pixels = torch.empty(1, 1 + height * width // 196, 128), torch.randn(2, 3, height, width)
        with torch.no_grad():
            own, table = (
                x.backbone.embeddings.interpolate_pos_encoding(tokens, height, width) for x in (graph.net, net)
            )
            torch.testing.assert_close(own, table, atol=2e-5, rtol=0)
            torch.testing.assert_close(graph(pixels), net(pixel_values=pixels).predicted_depth, atol=1e-4, rtol=1e-5)


def test_onnx_without_its_packages_is_one_sentence(make_system, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs onnx, onnxscript, onnxruntime, not installed here; install vstrain\[onnx\]"
    ):
        export(make_system(export={"onnx": True}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@with_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [{}, {"output": "metric", "max_depth": 20, "version": "v1", "pos_embed": "hf"}],
    ids=["relative-official", "metric-hf"],
)
def test_onnx_runs_at_any_batch_and_size(make_system, tmp_path, keys, caplog):
    import onnxruntime

    system = lively(make_system(image_size=126, export={"onnx": True}, **keys))
    with caplog.at_level(logging.INFO, "vstrain"):
        path = export(system, tmp_path)[-1]
    assert [line for line in caplog.messages if "differs by at most" in line][0].startswith("ONNX 1 x 126 x 126")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "14*rows", "14*columns"]
    for count, height, width in ((1, 14, 28), (1, 126, 126), (3, 70, 98), (2, 140, 182), (1, 252, 252)):
        image = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)
        found = session.run(["predicted_depth"], {"pixel_values": normalise(image).numpy()})[0]
        with torch.no_grad():
            expected = system(image)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


@with_onnx
@pytest.mark.slow
def test_an_onnx_file_that_differs_is_refused(make_system, tmp_path):
    net = lively(make_system(image_size=126)).net.eval()
    path = tmp_path / "net.onnx"
    onnx.export_onnx(net, path)
    torch.nn.init.normal_(net.backbone.encoder.layer[0].mlp.fc1.weight)
    with pytest.raises(InputError, match=r"net.onnx: at 126 x 126 ONNX Runtime differs by .* do not use this file"):
        onnx.compare(net, path)
