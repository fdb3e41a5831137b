"""Public depth data sets: the files of each download find each other, and their numbers become metres by hand-computed rules."""

import json
import math

import datasets
import numpy as np
import pytest

from data_pipelines.depth_corpus.layouts.table import LAYOUTS
from tests.data_pipelines import depth_sets_world as world
from tests.data_pipelines.depth_corpus_world import config, convert, write_folder, write_png
from tests.data_pipelines.depth_sets_world import SIZE, exr, flat, hdf5, npy, pfm, photo, png
from tests.data_pipelines.test_depth_corpus import counts_add_up, read
from vstrain.config.problems import InputError

NEEDS_H5PY = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('h5py')", reason="needs h5py")


def splits(out) -> dict[str, str]:
    return {key: split for split in ("train", "val") for key in read(out, split)}


def made(source, out, name: str, **keys) -> tuple[dict, dict[str, str]]:
    """(samples, splits) of a set whose every picture is kept."""
    result = convert(source, out, layout=name, **{"val_fraction": 0, **keys})
    assert counts_add_up(result) and not result.rejected
    return read(out), splits(out)


def depth_of(sample: dict) -> np.ndarray:
    assert sample["depth.pco"].dtype == np.float32 and sample["depth.pco"].shape == sample["jpg"].shape[:2]
    return sample["depth.pco"]


def test_blendedmvs(tmp_path):
    values = flat(2.5)
    values[0] = [0, -1, np.nan, np.inf, 1, 3]
    for scene in ("5a0271884e62597cdee0d0eb", "5b22269758e2823a67a3bd03"):
        for frame in range(2):
            photo(tmp_path / f"in/{scene}/blended_images/{frame:08d}.jpg")
            photo(tmp_path / f"in/{scene}/blended_images/{frame:08d}_masked.jpg")
            pfm(tmp_path / f"in/{scene}/rendered_depth_maps/{frame:08d}.pfm", values)
        (tmp_path / f"in/{scene}/cams").mkdir()
        (tmp_path / f"in/{scene}/cams/pair.txt").touch()
    (tmp_path / "in/validation_list.txt").write_text("5b22269758e2823a67a3bd03\n")
    samples, sides = made(tmp_path / "in", tmp_path / "out", "blendedmvs", val_fraction=0.9)
    assert set(samples) == {
        f"{s}_{f:08d}" for s in ("5a0271884e62597cdee0d0eb", "5b22269758e2823a67a3bd03") for f in (0, 1)
    }
    assert {key[:2]: side for key, side in sides.items()} == {"5a": "train", "5b": "val"}
    sample = samples["5a0271884e62597cdee0d0eb_00000001"]
    assert depth_of(sample)[0].tolist() == [0, 0, 0, 0, 1, 3] and (depth_of(sample)[1:] == 2.5).all()
    assert "sky.png" not in sample
    facts = {key: sample["json"].get(key) for key in ("source", "look", "unit", "metric", "focal")}
    assert facts == {"source": "blendedmvs", "look": "real", "unit": "depth", "metric": False, "focal": None}


def test_diml_indoor_and_outdoor(tmp_path):
    root = tmp_path / "in"
    millimetres = flat(0, np.uint16)
    millimetres[1:] = 1250
    photo(root / "indoor/16. Billiard Hall/161012/in_00/col/in_00_000001_c.png", 1)
    png(root / "indoor/16. Billiard Hall/161012/in_00/up_png/in_00_000001_ud.png", millimetres)
    photo(root / "outdoor/170721_C0/A/left/7_left.png", 2)
    photo(root / "outdoor/170721_C0/A/right/7_right.png", 2)
    png(root / "outdoor/170721_C0/A/depth/7_depth.png", flat(20_000, np.uint16))
    confidence = flat(255, np.uint8)
    confidence[0] = [0, 100, 152, 153, 154, 255]
    png(root / "outdoor/170721_C0/A/conf/7_conf.png", confidence)
    photo(root / "sample/outdoor/test/LR/outleft/3.png")
    png(root / "sample/outdoor/test/LR/depthmap/3.png", flat(500, np.uint16))
    png(root / "sample/outdoor/test/LR/confidencemap/3.png", flat(255, np.uint8))
    photo(root / "sample/indoor/train/HR/2. cafe/color/a_1_c.png")
    png(root / "sample/indoor/train/HR/2. cafe/depth_filled/a_1_depth_filled.png", flat(3000, np.uint16))
    samples, sides = made(root, tmp_path / "out", "diml")
    indoor, outdoor = (next(samples[key] for key in samples if word in key) for word in ("Billiard", "170721"))
    assert (depth_of(indoor)[0] == 0).all() and (depth_of(indoor)[1:] == np.float32(1.25)).all()
    # 0.6 of full confidence is 153: more than that counts
    assert depth_of(outdoor)[0].tolist() == [0, 0, 0, 0, 20, 20] and (depth_of(outdoor)[1:] == 20).all()
    assert len(samples) == 4 and {sides[key] for key in samples if "cafe" in key} == {"train"}
    assert [side for key, side in sides.items() if "outdoor_test" in key] == ["val"]
    assert outdoor["json"]["unit"] == "depth" and outdoor["json"]["look"] == "real"
    stricter, _ = made(root, tmp_path / "strict", "diml", mask_above=254)
    assert next(v for k, v in stricter.items() if "170721" in k)["depth.pco"][0].tolist() == [0, 0, 0, 0, 0, 20]


def test_hrwsi(tmp_path):
    values, mask = flat(0, np.uint8), flat(255, np.uint8)
    values[1:] = 200
    mask[3] = 0
    for part, count in (("train", 2), ("val", 1)):
        for number in range(count):
            photo(tmp_path / f"in/HR-WSI/{part}/imgs/{number}.jpg")
            png(tmp_path / f"in/HR-WSI/{part}/gts/{number}.png", values)
            png(tmp_path / f"in/HR-WSI/{part}/valid_masks/{number}.png", mask)
    samples, sides = made(tmp_path / "in", tmp_path / "out", "hrwsi")
    assert sides == {"train_0": "train", "train_1": "train", "val_0": "val"}
    sample = samples["train_1"]
    assert depth_of(sample)[:, 0].tolist() == [0, 200, 200, 0] and sample["json"]["unit"] == "disparity"
    unmasked, _ = made(tmp_path / "in", tmp_path / "all", "hrwsi", mask="ignore")
    assert unmasked["val_0"]["depth.pco"][:, 0].tolist() == [0, 200, 200, 200]


def test_irs(tmp_path):
    values = flat(32.5)
    values[0, 0] = 0
    for place, number in (("Home/ABedRoom", 1), ("Office/Modern", 1), ("Office/Modern", 2)):
        photo(tmp_path / f"in/IRSDataset/{place}/l_{number}.png")
        photo(tmp_path / f"in/IRSDataset/{place}/r_{number}.png")
        exr(tmp_path / f"in/IRSDataset/{place}/d_{number}.exr", values)
    photo(tmp_path / "in/Loft/l_7.png")
    exr(tmp_path / "in/Loft/d_7.exr", values)
    names = ("l_2.png", "r_2.png", "d_2.exr", "n_2.exr")
    (tmp_path / "in/lists").mkdir()
    line = " ".join(f"Office/Modern/{name}" for name in names)
    (tmp_path / "in/lists/IRSDataset_TEST.list").write_text(line + "\n")
    samples, sides = made(tmp_path / "in", tmp_path / "out", "irs", val_fraction=0.9)
    assert sides == {
        "Loft_7": "train",
        "Home_ABedRoom_1": "train",
        "Office_Modern_1": "train",
        "Office_Modern_2": "val",
    }
    sample = samples["Home_ABedRoom_1"]
    assert depth_of(sample)[0, 0] == 0 and (depth_of(sample)[1:] == 32.5).all()
    # 480 pixels in a picture 960 wide, 3 in one of 6
    facts = {key: sample["json"][key] for key in ("source", "look", "unit", "focal")}
    assert facts == {"source": "irs", "look": "synthetic", "unit": "disparity", "focal": 3.0}


@NEEDS_H5PY
def test_megadepth(tmp_path):
    root, values, order = tmp_path / "in/MegaDepth_v1", flat(4.0), flat(0)
    values[2] = 0
    order[0], order[3] = -1, 1
    for number, ending in ((1, "jpg"), (2, "JPG"), (3, "png")):
        photo(root / f"0001/dense0/imgs/{number}_o.{ending}")
        hdf5(root / f"0001/dense0/depths/{number}_o.h5", "depth", values)
    photo(root / "0022/dense1/imgs/9.jpg")
    hdf5(root / "0022/dense1/depths/9.h5", "depth", order)
    result = convert(tmp_path / "in", tmp_path / "out", layout="megadepth", val_fraction=0)
    assert result.rejected == {"ordinal labels": 1} and counts_add_up(result) and not result.warnings[1:]
    samples = read(tmp_path / "out")
    assert set(samples) == {f"0001_dense0_{number}_o" for number in (1, 2, 3)}
    for sample in samples.values():
        assert depth_of(sample)[:, 0].tolist() == [4, 4, 0, 4] and sample["json"]["metric"] is False


def test_tartanair(tmp_path):
    values = flat(12.5)
    values[0], values[1] = 10_000, 9_999
    values[2, 0] = 0
    for level, walk in (("Easy", "P000"), ("Hard", "P013")):
        folder = tmp_path / "in/ocean/ocean" / level / walk
        photo(folder / "image_left/000004_left.png")
        photo(folder / "image_right/000004_right.png")
        npy(folder / "depth_left/000004_left_depth.npy", values)
        npy(folder / "depth_right/000004_right_depth.npy", values)
    samples, _ = made(tmp_path / "in", tmp_path / "out", "tartanair")
    assert set(samples) == {"ocean_Easy_P000_000004", "ocean_Hard_P013_000004"}
    sample = samples["ocean_Hard_P013_000004"]
    assert depth_of(sample)[:, 0].tolist() == [0, 9_999, 0, 12.5]
    expected = np.zeros(SIZE, np.uint8)
    expected[0] = 255  # 0 is no sky
    np.testing.assert_array_equal(sample["sky.png"], expected)
    assert sample["json"]["focal"] == 3.0 and sample["json"]["look"] == "synthetic"


HYPERSIM = "in/ai_001_{scene:03d}/images/scene_cam_00_{kind}/frame.{frame:04d}.{end}"


def hypersim(tmp_path, scene: int, frame: int, values: np.ndarray) -> None:
    names = {"scene": scene, "frame": frame}
    photo(tmp_path / HYPERSIM.format(**names, kind="final_preview", end="tonemap.jpg"), size=values.shape)
    photo(tmp_path / HYPERSIM.format(**names, kind="final_preview", end="color.jpg"), size=values.shape)
    hdf5(tmp_path / HYPERSIM.format(**names, kind="geometry_hdf5", end="depth_meters.hdf5"), "dataset", values)


@NEEDS_H5PY
def test_hypersim_distances_along_rays_become_depth(tmp_path):
    height, width, plane = 6, 8, 2.0
    focal = 886.81 * width / 1024
    distance = [
        [plane * math.sqrt(focal**2 + (x - 3.5) ** 2 + (y - 2.5) ** 2) / focal for x in range(width)]
        for y in range(height)
    ]  # every point of a wall that faces the camera two metres away
    values = np.array(distance, np.float16)
    values[0, 0] = np.nan
    hypersim(tmp_path, 1, 0, values)
    samples, _ = made(tmp_path / "in", tmp_path / "out", "hypersim")
    depth = depth_of(samples["ai_001_001_cam_00_0000"])
    assert depth[0, 0] == 0
    np.testing.assert_allclose(depth[depth > 0], plane, rtol=2**-10)  # half precision is stored
    assert np.ptp(values[1:].astype(float)) > 0.1  # that was not flat before
    assert samples["ai_001_001_cam_00_0000"]["json"]["focal"] == round(focal, 4)


@NEEDS_H5PY
def test_hypersim_follows_its_published_split(tmp_path):
    for scene in (1, 2, 3):
        for frame in (0, 1):
            hypersim(tmp_path, scene, frame, flat(3.0, np.float16))
    rows = [
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name",
        *(f"ai_001_001,cam_00,{frame},True,,train" for frame in (0, 1)),
        "ai_001_002,cam_00,0,True,,val",
        "ai_001_002,cam_00,1,False,too dark,",
        *(f"ai_001_003,cam_00,{frame},True,,test" for frame in (0, 1)),
    ]
    (tmp_path / "in/metadata_images_split_scene_v1.csv").write_text("\n".join(rows))
    result = convert(tmp_path / "in", tmp_path / "out", layout="hypersim", val_fraction=0)
    assert result.kept == {"train": 2, "val": 3} and result.rejected == {"excluded by its publisher": 1}
    assert {key[:10] for key in read(tmp_path / "out", "val")} == {"ai_001_002", "ai_001_003"}
    ledger = json.loads((tmp_path / "out/rejected.jsonl").read_text())
    assert "too dark" in ledger["why"] and "frame.0001" in ledger["sample"]


def test_vkitti2(tmp_path):
    values = np.array([[65535, 65534, 0, 100, 8000, 1]] * 4, np.uint16)
    for camera in (0, 1):
        for frame in (0, 1):
            here = f"Scene01/15-deg-left/frames/{{kind}}/Camera_{camera}/{{kind}}_{frame:05d}"
            photo(tmp_path / "in/vkitti_2.0.3_rgb" / (here.format(kind="rgb") + ".jpg"))
            png(tmp_path / "in/vkitti_2.0.3_depth" / (here.format(kind="depth") + ".png"), values)
    samples, _ = made(tmp_path / "in", tmp_path / "out", "vkitti2")
    assert set(samples) == {"Scene01_15-deg-left_00000", "Scene01_15-deg-left_00001"}
    sample = samples["Scene01_15-deg-left_00001"]
    np.testing.assert_array_equal(depth_of(sample)[2], np.float32([0, 655.34, 0, 1, 80, 0.01]))
    assert sample["sky.png"].tolist() == [[255, 0, 0, 0, 0, 0]] * 4
    assert sample["json"]["focal"] == round(725.0087 * 6 / 1242, 4)
    near, _ = made(tmp_path / "in", tmp_path / "near", "vkitti2", far=80)  # the metric recipe
    sample = near["Scene01_15-deg-left_00001"]
    assert (
        depth_of(sample)[0].tolist() == np.float32([0, 0, 0, 1, 80, 0.01]).tolist() and sample["sky.png"][0, 0] == 255
    )


def vkitti2(root, frames: int) -> None:
    for frame in range(frames):
        photo(root / f"Scene06/fog/frames/rgb/Camera_0/rgb_{frame:05d}.jpg")
        png(root / f"Scene06/fog/frames/depth/Camera_0/depth_{frame:05d}.png", flat(700, np.uint16))


def test_lists_say_what_is_for_training_and_what_is_left_out(tmp_path):
    vkitti2(tmp_path / "in", 5)

    def write(name: str, *frames: int) -> str:
        here = "/mnt/somebody/vkitti2/Scene06/fog/frames/{0}/Camera_0/{0}_{1:05d}.{2}"
        lines = [f"{here.format('rgb', n, 'jpg')} {here.format('depth', n, 'png')}" for n in frames]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    lists = {"train_list": write("train.txt", 0, 2), "val_list": write("val.txt", 4)}
    result = convert(tmp_path / "in", tmp_path / "out", layout="vkitti2", **lists)
    assert splits(tmp_path / "out") == {f"Scene06_fog_{n:05d}": s for n, s in ((0, "train"), (2, "train"), (4, "val"))}
    assert result.rejected == {"not in the lists": 2} and counts_add_up(result)
    convert(tmp_path / "in", tmp_path / "rest", layout="vkitti2", val_list=lists["val_list"], val_fraction=0.9)
    assert sorted(splits(tmp_path / "rest").values()) == ["train"] * 4 + ["val"]
    (tmp_path / "wrong.txt").write_text("somewhere/else/1.jpg\n")
    with pytest.raises(
        InputError, match=r"val_list=.*wrong.txt: none of its 1 lines names a picture of Virtual KITTI 2"
    ):
        convert(tmp_path / "in", tmp_path / "x", layout="vkitti2", val_list=str(tmp_path / "wrong.txt"))
    (tmp_path / "words.txt").write_text("Scene77\n")
    with pytest.raises(InputError, match="words.txt: no picture below .* is listed there"):
        convert(tmp_path / "in", tmp_path / "x", layout="vkitti2", val_list=str(tmp_path / "words.txt"))
    (tmp_path / "words.txt").write_text("Scene06\n")
    assert (
        convert(tmp_path / "in", tmp_path / "x", layout="vkitti2", val_list=str(tmp_path / "words.txt")).kept["val"]
        == 5
    )


def test_files_without_partner_are_named(tmp_path):
    vkitti2(tmp_path / "in", 3)
    (tmp_path / "in/Scene06/fog/frames/depth/Camera_0/depth_00001.png").unlink()
    (tmp_path / "in/Scene06/fog/frames/rgb/Camera_0/rgb_00002.jpg").unlink()
    result = convert(tmp_path / "in", tmp_path / "out", layout="vkitti2", val_fraction=0)
    assert result.rejected == {"depth without image": 1, "image without depth": 1} and counts_add_up(result)
    vkitti2(tmp_path / "in/copy", 1)
    with pytest.raises(InputError, match="one sample has 2 image files: .*layout=vkitti2 takes one of each"):
        convert(tmp_path / "in", tmp_path / "again", layout="vkitti2")


@pytest.mark.parametrize("name", [name for name in LAYOUTS])
def test_another_tree_is_refused_with_what_was_expected_and_found(name, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.depth_corpus.layouts.find.importlib.util.find_spec", lambda _: True)
    write_folder(tmp_path / "in", 2)
    with pytest.raises(InputError) as error:
        convert(tmp_path / "in", tmp_path / "out", layout=name)
    said, tree = str(error.value), LAYOUTS[name].trees[0]
    assert f"this is not the layout of {LAYOUTS[name].title}: expected " in said and "other files: 4 .png" in said
    assert tree.image.removeprefix("**/") in said and tree.depth.removeprefix("**/") in said and "\n" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hypersim", "megadepth"])
def test_sets_in_hdf5_say_how_to_get_its_reader(name, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.depth_corpus.layouts.find.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"h5py reads; pip install 'vstrain\[hdf5\]'"):
        convert(write_folder(tmp_path / "in", 1), tmp_path / "out", layout=name)


def test_keys_that_contradict_a_layout_are_refused(tmp_path):
    for keys, says in (
        ({"layout": "hypersin"}, "did you mean hypersim"),
        ({"layout": "irs", "far": 10}, "far is in metres"),
        ({"layout": "irs", "sky_far": 10}, "sky_far is in metres"),
        ({"layout": "irs", "image_pattern": "*.png", "depth_pattern": "*.exr"}, "patterns are for layout=own"),
        ({"val_list": "x.txt"}, "are for public layouts"),
    ):
        with pytest.raises(ValueError, match=says):
            config(tmp_path, **keys)


def test_a_sky_file_fills_only_what_has_no_label(tmp_path):
    """Of your own files: by name, by pattern, by column of a manifest and of a saved data set."""
    sky = np.zeros((12, 16), np.uint8)
    sky[:4] = 1
    depth = np.full((12, 16), 3000, np.uint16)
    depth[:2] = 0
    depth[11] = 0
    write_png(tmp_path / "in/rgb/1.png", np.zeros((12, 16, 3), np.uint8))
    write_png(tmp_path / "in/depth/1.png", depth)
    write_png(tmp_path / "in/sky/1.png", sky)
    (tmp_path / "in/a.csv").write_text("image,depth,sky\nrgb/1.png,depth/1.png,sky/1.png\n")
    patterns = {"image_pattern": "rgb/*.png", "depth_pattern": "depth/*.png", "sky_pattern": "sky/*.png"}
    cells = {"image": [np.zeros((12, 16, 3), np.uint8)], "depth": [depth], "sky": [sky]}
    shapes = {"image": datasets.Array3D((12, 16, 3), "uint8")}
    shapes |= {name: datasets.Array2D((12, 16), kind) for name, kind in (("depth", "uint16"), ("sky", "uint8"))}
    datasets.Dataset.from_dict(cells, features=datasets.Features(shapes)).save_to_disk(tmp_path / "saved")
    sources = (("in", {}), ("in", patterns), ("in/a.csv", {"sky_column": "sky"}), ("saved", {}))
    for number, (source, keys) in enumerate(sources):
        convert(tmp_path / source, tmp_path / f"out{number}", depth_scale=0.001, **keys)
        (sample,) = read(tmp_path / f"out{number}").values()
        assert (sample["sky.png"][:2] == 255).all() and not sample["sky.png"][2:].any()
        assert not sample["depth.pco"][sample["sky.png"] > 0].any() and (sample["depth.pco"][2:11] == 3).all()


def test_sky_by_distance_and_focal_length_of_own_files_survive_shrinking(tmp_path):
    depth = np.full((30, 50), 5000, np.uint16)
    depth[:10], depth[10:20] = 60_000, 40_000
    write_png(tmp_path / "in/rgb/1.png", np.zeros((30, 50, 3), np.uint8))
    write_png(tmp_path / "in/depth/1.png", depth)
    keys = {"depth_scale": 0.001, "sky_far": 60, "far": 30, "focal": 55.0, "max_side": 20}
    convert(tmp_path / "in", tmp_path / "out", **keys)
    (sample,) = read(tmp_path / "out").values()
    assert sample["depth.pco"][:, 0].tolist() == [0] * 8 + [5] * 4
    assert sample["sky.png"][:, 0].tolist() == [255] * 4 + [0] * 8
    assert sample["json"]["focal"] == 55 * 20 / 50


def test_pfm_and_exr_of_these_tests_are_what_the_readers_read(tmp_path):
    from data_pipelines.depth_corpus.readers import read_depth

    values = np.arange(24, dtype=np.float32).reshape(SIZE)
    for write, name in ((world.pfm, "a.pfm"), (world.exr, "a.exr")):
        write(tmp_path / name, values)
        np.testing.assert_array_equal(read_depth(name, (tmp_path / name).read_bytes()), values)
