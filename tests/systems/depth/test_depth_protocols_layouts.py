"""Each reader on a miniature of the published layout, with numbers that are known."""

import json
import struct
import sys

import cv2
import numpy as np
import OpenEXR
import pytest
from omegaconf import OmegaConf
from PIL import Image

from vstrain.config.compose import CONF
from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import PROTOCOLS
from vstrain.systems.depth.protocols.layouts.da2k import pair_of
from vstrain.systems.depth.protocols.layouts.diode import depth_edges
from vstrain.systems.depth.protocols.layouts.nyuv2 import labelled
from vstrain.systems.depth.protocols.layouts.sintel import read_dpt
from vstrain.systems.depth.protocols.listing import digest, find

DRIVE = "2011_09_26_drive_0002_sync"


def options(name, root, **keys):
    values = OmegaConf.to_container(OmegaConf.load(CONF / "protocol" / f"{name}.yaml"))
    return PROTOCOLS[name].model_validate({**values, "root": str(root), **keys})


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, value)
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        assert cv2.imwrite(str(path), value)


def photo(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def kitti(root, frames=(5, 69), side="val"):
    for frame in frames:
        write(root / f"raw/2011_09_26/{DRIVE}/image_02/data/{frame:010d}.png", photo(seed=frame))
        depth = np.zeros((4, 6), np.uint16)
        depth[1, 2] = 256 * frame + 128
        write(root / f"data_depth_annotated/{side}/{DRIVE}/proj_depth/groundtruth/image_02/{frame:010d}.png", depth)
    write(root / f"raw/2011_09_26/{DRIVE}/image_02/data/0000000099.png", photo())  # has no depth


def test_every_protocol_has_its_values_in_yaml():
    assert {path.stem for path in (CONF / "protocol").glob("*.yaml")} == PROTOCOLS.keys()
    published = {name: options(name, "x").published for name in PROTOCOLS}
    assert published == {
        "kitti_eigen": 652, "nyuv2": 654, "sintel": 1064, "eth3d": 454, "diode": 771, "da2k": None, "folder": None,
    }  # fmt: skip
    caps = {name: (options(name, "x").cap, options(name, "x").crop) for name in PROTOCOLS if name != "da2k"}
    assert caps["kitti_eigen"] == (80, "garg") and caps["nyuv2"] == (10, "nyu")
    assert caps["sintel"] == caps["eth3d"] == (72, "none")


def test_kitti_is_found_by_its_layout(tmp_path):
    kitti(tmp_path)
    kitti(tmp_path, (7,), "train")
    listing = find(options("kitti_eigen", tmp_path))
    assert [sample.key for sample in listing.samples] == [f"{DRIVE}/{n:010d}" for n in (5, 7, 69)]
    image, depth = listing.samples[2].read()
    assert np.array_equal(image, photo(seed=69)[:, :, ::-1])
    assert depth.max() == depth[1, 2] == 69.5 and (depth > 0).sum() == 1


def test_kitti_list_of_another_machine(tmp_path):
    """Absolute paths that are not here, both folders of depth, Eigen's None, JPEG instead of PNG."""
    kitti(tmp_path / "here")
    kitti(tmp_path / "here", (7,), "train")
    jpeg = tmp_path / f"here/raw/2011_09_26/{DRIVE}/image_02/data/0000000007.png"
    jpeg.rename(jpeg.with_suffix(".jpg"))
    image = f"/mnt/them/Kitti/raw_data/2011_09_26/{DRIVE}/image_02/data/{{:010d}}.png"
    depth = f"/mnt/them/Kitti/data_depth_annotated/{{}}/{DRIVE}/proj_depth/groundtruth/image_02/{{:010d}}.png"
    lines = [f"{image.format(n)} {depth.format(side, n)}" for n, side in ((69, "val"), (7, "train"), (5, "val"))]
    split = tmp_path / "val.txt"
    split.write_text("\n".join([lines[0], "", f"{image.format(99)} None 721.5377", *lines[1:]]))
    listing = find(options("kitti_eigen", tmp_path / "here", split=str(split)))
    assert [sample.key for sample in listing.samples] == [f"{DRIVE}/{n:010d}" for n in (69, 7, 5)], "the list's order"
    assert [sample.read()[1].max() for sample in listing.samples] == [69.5, 7.5, 5.5]
    assert listing.split == "list val.txt"

    short = f"2011_09_26/{DRIVE}/image_02/data/0000000005.png {DRIVE}/proj_depth/groundtruth/image_02/0000000005.png 7"
    split.write_text(short)
    assert find(options("kitti_eigen", tmp_path / "here", split=str(split))).samples[0].read()[1].max() == 5.5

    split.write_text(lines[0] + "\n" + lines[1].replace("0000000007", "0000000008"))
    with pytest.raises(InputError, match=r"line 2: .*0000000008.png is not below"):
        find(options("kitti_eigen", tmp_path / "here", split=str(split)))


def test_a_file_name_alone_is_no_match(tmp_path):
    """0000000005.png exists in every drive: the drive must agree."""
    kitti(tmp_path)
    write(tmp_path / "0000000005.png", photo())
    other = DRIVE.replace("0002", "0009")
    split = tmp_path / "list.txt"
    split.write_text(
        f"2011_09_26/{other}/image_02/data/0000000005.png {other}/proj_depth/groundtruth/image_02/0000000005.png"
    )
    with pytest.raises(InputError, match="line 1"):
        find(options("kitti_eigen", tmp_path, split=str(split)))


def test_kitti_refuses_8_bit_depth(tmp_path):
    kitti(tmp_path, (5,))
    write(next(tmp_path.glob("data_depth_annotated/**/*.png")), np.ones((4, 6), np.uint8))
    with pytest.raises(InputError, match="16 bits"):
        find(options("kitti_eigen", tmp_path)).samples[0].read()


def test_sintel(tmp_path):
    depth = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for scene, frame in (("b", 1), ("a", 2), ("a", 1)):
        name = f"{scene}/frame_{frame:04d}"
        write(tmp_path / f"training/clean/{name}.png", photo(3, 4, frame))
        write(tmp_path / f"training/final/{name}.png", photo(3, 4, 50 + frame))
        data = struct.pack("<fii", 202021.25, 4, 3) + (frame * depth).astype("<f4").tobytes()
        write(tmp_path / f"training/depth/{name}.dpt", data)
    listing = find(options("sintel", tmp_path))
    assert [sample.key for sample in listing.samples] == ["a/frame_0001", "a/frame_0002", "b/frame_0001"]
    image, found = listing.samples[1].read()
    assert np.array_equal(image, photo(3, 4, 52)[:, :, ::-1]) and np.array_equal(found, 2 * depth)
    clean = find(options("sintel", tmp_path, rendering="clean")).samples[1].read()[0]
    assert np.array_equal(clean, photo(3, 4, 2)[:, :, ::-1])
    bad = tmp_path / "bad.dpt"
    for data, reason in ((b"PIEH", "202021.25"), (struct.pack("<fii", 202021.25, 4, 3) + bytes(40), "cut short")):
        bad.write_bytes(data)
        with pytest.raises(InputError, match=reason):
            read_dpt(bad)


def test_eth3d(tmp_path):
    depth = np.full((4, 6), np.inf, np.float32)
    depth[3, 1] = 12.25
    write(tmp_path / "pipes/images/dslr_images/DSC_1.JPG", photo())
    write(tmp_path / "pipes/ground_truth_depth/dslr_images/DSC_1.JPG", depth.tobytes())
    (sample,) = find(options("eth3d", tmp_path)).samples
    image, found = sample.read()
    assert sample.key == "pipes/DSC_1" and image.shape == (4, 6, 3) and np.array_equal(found, depth)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn, which the depth does not know of
    Image.fromarray(photo()).save(tmp_path / "pipes/images/dslr_images/DSC_1.JPG", exif=turned)
    assert sample.read()[0].shape == (4, 6, 3) and np.array_equal(sample.read()[1], depth)
    write(tmp_path / "pipes/ground_truth_depth/dslr_images/DSC_1.JPG", depth.tobytes()[:-4])
    with pytest.raises(InputError, match=r"92 bytes; expected 96"):
        sample.read()


def diode(root):
    depth = np.full((5, 7, 1), 10, np.float32)
    depth[:, 4:] = 20
    mask = np.ones((5, 7), np.float32)
    mask[0] = 0
    for domain in ("indoors", "outdoor"):
        stem = root / f"val/{domain}/scene_00019/scan_00183/00019_00183_{domain}_000_010"
        write(stem.with_name(stem.name + ".png"), photo(5, 7))
        write(stem.with_name(stem.name + "_depth.npy"), depth)
        write(stem.with_name(stem.name + "_depth_mask.npy"), mask)


def test_diode_with_and_without_the_edge_mask(tmp_path):
    diode(tmp_path)
    samples = find(options("diode", tmp_path)).samples
    assert [sample.group for sample in samples] == ["indoors", "outdoor"]
    for sample in samples:
        depth = sample.read()[1]
        assert depth.shape == (5, 7) and (depth[0] == 0).all() and (depth[1:, :4] == 10).all()
    masked = [sample.read()[1] for sample in find(options("diode", tmp_path, edge_mask=0.5)).samples]
    assert (masked[0][1:] > 0).all(), "indoors keeps its edges"
    assert (masked[1][1:] > 0).all(0).tolist() == [True, True, True, False, False, True, True]
    wide = find(options("diode", tmp_path, edge_mask=1.0))
    assert (wide.samples[1].read()[1][1:] > 0).all() and "edge_mask 1" in wide.split


def test_invalid_neighbours_make_no_edge():
    for wrong in (500, 0):
        depth, valid = np.full((3, 5), 2.0, np.float32), np.ones((3, 5), bool)
        depth[1, 2], valid[1, 2] = wrong, False
        assert not depth_edges(depth, valid, 0.1)[valid].any()
        assert depth_edges(depth, np.ones_like(valid), 0.1)[:, 1:4].all()


def test_nyu_arrays_are_turned_as_matlab_meant_them():
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 5, 4)  # number, channel, column, row
    raw = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 5, 4)
    image, depth = labelled({"images": images, "rawDepths": raw, "depths": 0 * raw}, 2)
    assert image.shape == (4, 5, 3) and depth.shape == (4, 5)
    assert image[3, 1, 2] == images[1, 2, 1, 3] and depth[3, 1] == raw[1, 1, 3]


def test_nyu_official_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    images, raw = rng.integers(0, 256, (4, 3, 6, 5), dtype=np.uint8), rng.random((4, 6, 5), dtype=np.float32)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["rawDepths"], file["depths"] = images, raw, 9 + raw
    with pytest.raises(InputError, match=r"splits.mat: not in"):
        find(options("nyuv2", tmp_path))
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[1], [4]]), "trainNdxs": np.array([[2], [3]])})
    first, last = find(options("nyuv2", tmp_path)).samples
    assert (first.key, last.key) == ("0001", "0004")
    assert np.array_equal(last.read()[0], images[3].transpose(2, 1, 0)) and np.array_equal(last.read()[1], raw[3].T)
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[5]])})
    with pytest.raises(InputError, match="not within the 4 images"):
        find(options("nyuv2", tmp_path))


def test_nyu_without_the_readers_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs h5py.*pip install 'vstrain\[eval\]'"):
        find(options("nyuv2", tmp_path))


def test_nyu_extracted_folders_are_in_millimetres_or_metres(tmp_path):
    for n, depth in enumerate((np.full((4, 6), 1500, np.uint16), np.full((4, 6), 1.5, np.float32))):
        write(tmp_path / f"rgb/{n}.png", photo())
        write(tmp_path / f"depth/{n}{('.png', '.npy')[n]}", depth)
    for sample in find(options("nyuv2", tmp_path)).samples:
        assert sample.read()[1] == pytest.approx(np.full((4, 6), 1.5))


def test_folder_units_and_partners(tmp_path):
    write(tmp_path / "rgb/kitchen/1.jpg", photo())
    write(tmp_path / "depth/kitchen/1.png", np.array([[0, 2000], [500, 4000]], np.uint16))
    read = find(options("folder", tmp_path, depth_scale=0.001)).samples[0].read
    assert read()[1].tolist() == [[0, 2], [0.5, 4]]
    read = find(options("folder", tmp_path, depth_scale=0.001, unit="disparity")).samples[0].read
    assert read()[1].tolist() == [[0, 0.5], [2, 0.25]]
    write(tmp_path / "rgb/kitchen/2.jpg", photo())
    with pytest.raises(InputError, match=r"1 without partner \(kitchen/2 is one\)"):
        find(options("folder", tmp_path))
    write(tmp_path / "depth/kitchen/2.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(InputError, match=r"2.png: 8-bit"):
        find(options("folder", tmp_path)).samples[1].read()


@pytest.mark.parametrize("suffix", ["npy", "npz", "tiff", "pfm", "exr"])
def test_folder_reads_floats_of_every_format(suffix, tmp_path):
    depth = np.array([[1.5, 2.25, 0], [4, 5, 6.125]], np.float32)
    path = tmp_path / f"depth/1.{suffix}"
    path.parent.mkdir()
    if suffix == "npz":
        np.savez(path, confidence=0 * depth, depth=depth)
    elif suffix == "pfm":  # the bottom row comes first
        path.write_bytes(b"Pf\n3 2\n-1.0\n" + depth[::-1].astype("<f4").tobytes())
    elif suffix == "exr":
        OpenEXR.File({}, {"Z": OpenEXR.Channel(depth)}).write(str(path))
    else:
        write(path, depth)
    write(tmp_path / "rgb/1.png", photo(2, 3))
    (sample,) = find(options("folder", tmp_path)).samples
    assert np.array_equal(sample.read()[1], depth)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=f"1.{suffix}: ") as error:
        sample.read()
    assert "\n" not in str(error.value)


def da2k(root, annotations):
    for name in annotations:
        write(root / name, photo())
    (root / "annotations.json").write_text(json.dumps(annotations))


def test_da2k_scenes_and_order(tmp_path):
    pair = {"point1": [1, 5], "point2": [3, 0], "closer_point": "point1"}
    da2k(tmp_path, {"images/indoor/a.jpg": [pair, {**pair, "closer_point": "point2"}], "./images/aerial/b.jpg": [pair]})
    first, second = find(options("da2k", tmp_path)).samples
    assert (first.group, second.group) == ("indoor", "aerial") and second.key == "images/aerial/b.jpg"
    assert first.pairs == (((1, 5), (3, 0)), ((3, 0), (1, 5)))
    with pytest.raises(ValueError, match="closer_point"):
        pair_of({**pair, "closer_point": "left"})
    (tmp_path / "annotations.json").write_text('{"images/indoor/a.jpg": [{"point1": [1]}]}')
    with pytest.raises(InputError, match="not DA-2K's annotations"):
        find(options("da2k", tmp_path))
    (tmp_path / "annotations.json").write_text(json.dumps({"images/indoor/gone.jpg": [pair]}))
    with pytest.raises(InputError, match="gone.jpg"):
        find(options("da2k", tmp_path))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_wrong_root_is_one_sentence(name, tmp_path):
    with pytest.raises(InputError, match="no such folder") as error:
        find(options(name, tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
    (tmp_path / "holiday").mkdir()
    with pytest.raises(InputError, match=r"expected .*; found holiday/; give") as error:
        find(options(name, tmp_path))
    assert "\n" not in str(error.value)


def test_the_digest_knows_order_and_names():
    assert digest(["a", "b"]) == digest(["a", "b"]) != digest(["b", "a"])
    assert digest(["ab"]) != digest(["a", "b"])
