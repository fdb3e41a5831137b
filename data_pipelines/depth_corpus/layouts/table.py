"""The public data sets with depth labels, as they are downloaded; docs/depth_corpus.md says where the facts are from."""

from __future__ import annotations

from data_pipelines.depth_corpus.layouts.layout import Layout, Rules, Tree

OWN = "own"  # your own files: paired by names, patterns or a manifest
OWN_RULES = Rules(unit="depth", depth_scale=1.0, look="real")

LAYOUTS = {
    "blendedmvs": Layout(
        title="BlendedMVS",
        rules=Rules(unit="depth", depth_scale=1.0, look="real", metric=False),
        trees=(Tree("**/{scene}/blended_images/{frame}.jpg", "**/{scene}/rendered_depth_maps/{frame}.pfm"),),
        group=("scene",),
        fields={"frame": r"\d{8}"},  # without NNNNNNNN_masked.jpg
        val_lists=("validation_list.txt",),
    ),
    "diml": Layout(
        title="DIML",
        rules=Rules(unit="depth", depth_scale=0.001, look="real", mask_above=0.6 * 255),
        trees=(
            Tree("{place}/col/{frame}_c.png", "{place}/up_png/{frame}_*.png"),
            Tree("{place}/left/{frame}_left.png", "{place}/depth/{frame}_depth.png", "{place}/conf/{frame}_conf.png"),
            Tree("{place}/color/{frame}_c.png", "{place}/depth_filled/{frame}_depth_filled.png"),
            Tree("{place}/outleft/{frame}.png", "{place}/depthmap/{frame}.png", "{place}/confidencemap/{frame}.png"),
        ),
        group=("place",),
        fields={"place": ".+"},
    ),
    "hrwsi": Layout(
        title="HR-WSI",
        rules=Rules(unit="disparity", depth_scale=1.0, look="real"),
        trees=(Tree("**/{part}/imgs/{frame}.jpg", "**/{part}/gts/{frame}.png", "**/{part}/valid_masks/{frame}.png"),),
        group=("frame",),
        fields={"part": "train|val"},
    ),
    "irs": Layout(
        title="IRS",
        rules=Rules(unit="disparity", depth_scale=1.0, look="synthetic", focal=480.0, focal_width=960),
        trees=(Tree("**/{scene}/l_{frame}.png", "**/{scene}/d_{frame}.exr"),),
        group=("scene",),
        fields={"scene": "(?:(?:Home|Office|Restaurant|Store)/)?[^/]+", "frame": r"\d+"},
        val_lists=("IRSDataset_TEST.list", "lists/IRSDataset_TEST.list"),
    ),
    "megadepth": Layout(
        title="MegaDepth",
        rules=Rules(unit="depth", depth_scale=1.0, look="real", metric=False, ordinal=True),
        trees=tuple(
            Tree(f"**/{{scene}}/{{dense}}/imgs/{{frame}}.{ending}", "**/{scene}/{dense}/depths/{frame}.h5")
            for ending in ("jpg", "png", "jpeg")
        ),
        group=("scene",),
        fields={"scene": r"\d{4}", "dense": r"dense\d+"},
    ),
    "tartanair": Layout(
        title="TartanAir",
        rules=Rules(unit="depth", depth_scale=1.0, look="synthetic", sky_far=10_000.0, focal=320.0, focal_width=640),
        trees=(
            Tree(
                "**/{scene}/{level}/{walk}/image_left/{frame}_left.png",
                "**/{scene}/{level}/{walk}/depth_left/{frame}_left_depth.npy",
            ),
        ),
        group=("scene",),
        fields={"level": "Easy|Hard", "walk": r"P\d{3}", "frame": r"\d{6}"},
    ),
    "hypersim": Layout(
        title="Hypersim",
        rules=Rules(unit="depth", depth_scale=1.0, look="synthetic", focal=886.81, focal_width=1024, ray=True),
        trees=(
            Tree(
                "**/{scene}/images/scene_{camera}_final_preview/frame.{frame}.tonemap.jpg",
                "**/{scene}/images/scene_{camera}_geometry_hdf5/frame.{frame}.depth_meters.hdf5",
            ),
        ),
        group=("scene",),
        fields={"scene": r"ai_\d{3}_\d{3}", "camera": r"cam_\d{2}", "frame": r"\d{4}"},
        val_lists=(
            "metadata_images_split_scene_v1.csv",
            "evermotion_dataset/analysis/metadata_images_split_scene_v1.csv",
        ),
    ),
    "vkitti2": Layout(
        title="Virtual KITTI 2",
        rules=Rules(
            unit="depth", depth_scale=0.01, look="synthetic", sky_values=(65535,), focal=725.0087, focal_width=1242
        ),
        trees=(
            Tree(
                "**/{scene}/{variation}/frames/rgb/Camera_0/rgb_{frame}.jpg",
                "**/{scene}/{variation}/frames/depth/Camera_0/depth_{frame}.png",
            ),
        ),
        group=("scene",),
        fields={"scene": r"Scene\d{2}", "frame": r"\d{5}"},
    ),
}
