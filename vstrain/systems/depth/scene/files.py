"""Point clouds as binary PLY, meshes as binary glTF 2.0 (GLB)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from vstrain.systems.depth.scene.camera import Camera
from vstrain.systems.depth.scene.mesh import Mesh

FLOAT, UNSIGNED, VERTICES, INDICES = 5126, 5125, 34962, 34963  # glTF 2.0 specification, 3.6.2 and 5.11
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942  # 4.4.3


def write_ply(path: Path, points: np.ndarray, colours: np.ndarray, facts: dict[str, str]) -> None:
    """Points float32 (N, 3) with colours uint8 (N, 3), little endian; `facts` become comments."""
    vertices = np.empty(len(points), [("position", "<f4", 3), ("colour", "u1", 3)])
    vertices["position"], vertices["colour"] = points, colours
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {name}: {text}" for name, text in facts.items())]
    header += [f"element vertex {len(points)}", *(f"property float {axis}" for axis in "xyz")]
    header += [*(f"property uchar {name}" for name in ("red", "green", "blue")), "end_header", ""]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.tobytes())


def write_glb(path: Path, mesh: Mesh, jpeg: bytes, camera: Camera, facts: dict[str, str]) -> None:
    """The mesh with the encoded photo as its texture, unlit, so that it shows the photo's own colours, and the camera that
    took it; `facts` stand in asset.extras."""
    parts = [mesh.points.astype("<f4"), mesh.texture.astype("<f4"), mesh.faces.astype("<u4").reshape(-1)]
    chunks = [part.tobytes() for part in parts] + [jpeg + b"\0" * (-len(jpeg) % 4)]
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": part.nbytes, "target": target}
        for part, start, target in zip(parts, starts, (VERTICES, VERTICES, INDICES), strict=False)
    ]
    views.append({"buffer": 0, "byteOffset": starts[3], "byteLength": len(jpeg)})
    accessors = [
        {"bufferView": i, "componentType": component, "count": len(part), "type": shape}
        for i, (part, component, shape) in enumerate(
            zip(parts, (FLOAT, FLOAT, UNSIGNED), ("VEC3", "VEC2", "SCALAR"), strict=True)
        )
    ]
    accessors[0] |= {"min": mesh.points.min(0).tolist(), "max": mesh.points.max(0).tolist()}
    lens = {"yfov": camera.yfov, "aspectRatio": camera.width / camera.height, "znear": 0.01}
    material = {
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},
        "doubleSided": True,
    }
    document = {
        "asset": {"version": "2.0", "generator": "vstrain", "extras": facts},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"name": "photo", "mesh": 0}, {"name": "camera", "camera": 0}],
        "cameras": [{"type": "perspective", "perspective": lens}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0, "mode": 4}]}
        ],
        "materials": [material],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"mimeType": "image/jpeg", "bufferView": 3}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + starts[-1]))
        file.write(struct.pack("<II", len(text), JSON_CHUNK) + text)
        file.write(struct.pack("<II", starts[-1], BINARY_CHUNK))
        file.writelines(chunks)
