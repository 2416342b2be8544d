"""Damaged and wrong files for every reader: ``python tests/fuzz.py [--minutes 20]``, which ``make fuzz`` calls.
With ``--examples N`` so many of each reader, however long they take.

Each example is an honest file with bytes or values changed, drawn by hypothesis from a seed. A reader may take it or refuse it,
by its own error that names the file; anything else is a finding: another exception, a signal, more than ``PATIENCE`` seconds or
``MEMORY``. Exit codes: 0, 1 with findings, one line each.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
for folder in (ROOT, ROOT / "tests", ROOT / "tests/experiments", ROOT / "tests/reports"):
    sys.path.insert(0, str(folder))

from experiments import instructions  # noqa: E402

instructions.hold()

import numpy as np  # noqa: E402

PATIENCE = 60
MEMORY = 12 << 30
ROUND = 30.0
"""Seconds of one process, which goes through all readers."""

Tree = Any


@dataclass(frozen=True)
class Reader:
    """What is read, and how it may fail.

    content  of an honest file: a structure to change, or its bytes
    encode   the structure as bytes
    place    (bytes) -> where they were written
    read     (path) -> nothing
    errors   of its own
    """

    content: Tree
    encode: Callable[[Tree], bytes]
    place: Callable[[bytes], Path]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]


_VALUES = (
    *(None, "", "x" * 300, "../../x", "<!-- x -->", "<b>", "\x00", "12.5", b"\xff", True, [], {}, (), [[]], [1, 2], {1: 2}),
    *(-1, 0, 1, 10**20, 2**63, math.nan, math.inf, -math.inf, 1e30, 1e300, -5.0, np.float32(3), 3 + 4j),
)
_ARRAYS = (np.zeros(0), np.zeros((3, 3)), np.full((3, 3), np.nan), np.arange(4.0), np.zeros((2, 2, 2), bool), np.array("text"))


def nasty(draw: Random) -> Any:
    """A value that does not belong where it is put."""
    return draw.choice(_VALUES if draw.random() < 0.8 else _ARRAYS)


def nodes(tree: Tree, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from nodes(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from nodes(value, (*path, number))


def changed(tree: Tree, draw: Random) -> Tree:
    """The structure with one to three entries gone, doubled, renamed, or of another kind."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        found = list(nodes(tree))
        if not found or draw.random() < 0.02:
            return nasty(draw)
        *above, key = draw.choice(found)
        inside = tree
        for step in above:
            inside = inside[step]
        act = draw.randrange(6)
        if act == 0:
            del inside[key]
        elif act == 1 and isinstance(inside, dict):
            inside[draw.choice((1, None, "other", 2.5, (1, 2)))] = inside.pop(key)
        elif act == 2 and isinstance(inside, list):
            inside.insert(draw.randint(0, len(inside)), copy.deepcopy(inside[key]))
        elif act == 3 and isinstance(inside[key], (int, float)) and not isinstance(inside[key], bool):
            inside[key] = inside[key] * draw.choice((-1, 0, 1e6, 1e30, 0.5))
        elif act == 4 and isinstance(inside[key], np.ndarray):
            inside[key] = other_array(inside[key], draw)
        else:
            inside[key] = nasty(draw)
    return tree


def other_array(array: np.ndarray, draw: Random) -> np.ndarray:
    with np.errstate(all="ignore"):
        return draw.choice(
            (
                lambda: array.astype(draw.choice(("f4", "f8", "i1", "i8", "u1", "?", "c8", "U3"))),
                lambda: array.reshape(-1),
                lambda: array[..., :-1] if array.ndim else array,
                lambda: array[None],
                lambda: array.astype(float) * draw.choice((-1, 1e3, 1e30, math.nan)),
                lambda: np.zeros(0, array.dtype),
            )
        )()


def damaged(data: bytes, draw: Random) -> bytes:
    """The bytes with some flipped, cut off, doubled or put in; most near the beginning or the end, where headers are."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        size = len(raw)
        where = draw.choice((draw.randrange(size + 1), min(size, draw.randrange(200)), max(0, size - draw.randrange(1, 200))))
        act = draw.randrange(6)
        if act == 0:
            del raw[where:]
        elif act == 1:
            raw[where:where] = draw.randbytes(draw.choice((1, 4, 40)))
        elif act == 2:
            del raw[where : where + draw.choice((1, 4, 40))]
        elif act == 3:
            raw[where : where + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"))
        elif where < size:
            raw[where] ^= 1 << draw.randrange(8) if act == 4 else draw.randrange(1, 256)
    return bytes(raw)


def as_json(tree: Tree) -> bytes:
    return json.dumps(tree, default=repr).encode()


def as_npz(tree: Tree) -> bytes:
    out = io.BytesIO()
    if not isinstance(tree, dict):
        np.save(out, np.array(str(tree)))
        return out.getvalue()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in tree.items():
            member = io.BytesIO()
            try:
                np.save(member, np.asarray(value), allow_pickle=True)
            except Exception:  # noqa: BLE001 - a value that numpy takes for none
                member.write(b"none")
            archive.writestr(f"{str(name)[:50]}.npy", member.getvalue())
    return out.getvalue()


def as_npy(tree: Tree) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(tree["array"] if isinstance(tree, dict) and "array" in tree else str(tree)), allow_pickle=True)
    return out.getvalue()


def as_safetensors(tree: Tree) -> bytes:
    header = as_json(tree)
    return len(header).to_bytes(8, "little") + header + bytes(16)


def as_image(tree: Tree) -> bytes:
    return bytes(tree) if isinstance(tree, bytes) else repr(tree).encode()


def readers(folder: Path) -> dict[str, Reader]:
    """All of them, with honest files below ``folder``."""
    import ddad_layout
    import kitti360_layout
    import occ3d_layout
    import surroundocc_layout
    import test_visualise
    import torch
    from test_records import make_record

    from baselines.checkpoint_files import CheckpointError
    from baselines.checkpoints import read_state_dict
    from experiments import records, renderer_records
    from experiments.cell import lock
    from experiments.cell.engine import check_checkpoint
    from experiments.cell.folder import LIVE, CellFolder, Progress
    from experiments.datasets import layout_ddad, prepare_ddad, prepare_gaussianocc
    from experiments.datasets.ddad import DDAD
    from experiments.datasets.inventory import inventory
    from experiments.datasets.kitti360 import SSCBenchKITTI360
    from experiments.datasets.layout_camera_frames import list_path, read_list
    from experiments.datasets.layout_depth_maps import read_map
    from experiments.datasets.layout_image_semantics import read_semantics
    from experiments.datasets.layout_lidar_pixels import read_points
    from experiments.datasets.layout_pseudo_labels import DEPTH, SEMANTIC, STORED, read_classes, read_metres, source_of, write
    from experiments.datasets.layouts import look
    from experiments.datasets.occ3d import Occ3DNuScenes
    from experiments.datasets.surroundocc import SurroundOccNuScenes
    from experiments.datasets.transforms import ImageTransform, read_image
    from experiments.datasets.unpickle import DataError, load_infos
    from experiments.datasets.verification import Notes
    from experiments.predictions import PredictionFileError, load, save
    from experiments.records import RecordError
    from experiments.scoring import formats
    from experiments.spec import load_table
    from experiments.sweep import manifest, status
    from experiments.toyworld import _holds
    from renderers.workloads import OFFICIAL_LABEL, LabelError, load_label

    occ3d = occ3d_layout.write_layout(folder / "occ3d", 2)
    surround = surroundocc_layout.write_layout(folder / "surroundocc")
    kitti = kitti360_layout.write_layout(folder / "kitti360")
    ddad = ddad_layout.write_layout(folder / "ddad")
    occ3d_layout.list_key_frames(occ3d, "val")
    small = ImageTransform(width=80, height=32, distort=False)

    def at(path: Path) -> Callable[[bytes], Path]:
        def place(data: bytes) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return path

        return place

    def split_of(kind: Any, root: Path, dataset: str, split: str) -> Callable[[Path], object]:
        def read(_: Path) -> object:
            look(dataset, root, split, reads={"history": (-1,)} if dataset != "kitti360" else {})
            inventory(dataset, root, split)
            moved = {} if dataset == "kitti360" else {"history": (-1,)}
            return kind(root, split, image=small, **moved)[0]

        return read

    table = load_table("table_occ3d")
    cell = CellFolder(table.cell(table.row("tpvformer"), "cpu", "toy", 0), folder / "results")
    more = {"per_class": {"mIoU": {"car": 3.0}}, "absent": {"mIoU": ["bus"]}, "first_losses": [{"loss": 1.0}]}
    record = json.loads(make_record(table="table_occ3d", row="tpvformer", **more).model_dump_json())
    weights = {"state_dict": {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4)}, "epoch": 3}
    training = weights | {
        "meta": {"epoch": 1, "iter": 2, "seed": 0},
        "message_hub": {"runtime_info": {"keep_ckpt_ids": [2]}, "log_scalars": {}, "resumed_keys": {}},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "param_schedulers": [{"last_step": 2}],
    }

    def as_torch(legacy: bool) -> Callable[[Tree], bytes]:
        def encode(tree: Tree) -> bytes:
            out = io.BytesIO()
            torch.save(tree, out, _use_new_zipfile_serialization=not legacy)
            return out.getvalue()

        return encode

    def no_error(path: Path) -> object:
        return cell.progress()

    def from_record(path: Path) -> object:
        from reports import summary

        return list(summary.behind(table, folder / "records")), cell.record()

    jpg = next((occ3d / "nuscenes").rglob("*.jpg"))
    png = next(kitti.rglob("*.png"))
    label = next((occ3d / "gts").rglob("labels.npz"))
    dense = next((kitti / "preprocess").rglob("*.npy"))
    sparse = next((surround / "surroundocc").rglob("*.npy"))
    depth = next((kitti / "depth").rglob("*.npy"))
    points = np.array([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], "<f4")
    image = folder / "points/nuscenes/samples/a.jpg"
    at(folder / "points/nuscenes/seg_gt_lidarseg/a.jpg.bin")((points * [1, 1, 0]).astype("<f4").tobytes())
    frame = test_visualise.frame()
    save(frame, folder / "frame.npz")
    renderer = next((ROOT / "results/records/table_renderers").glob("*/*.json"))
    state = {**vars(Progress("f", "2026", first_losses=[{"loss": 1.0}]))}
    occ3d_info, surround_info = occ3d / "bevdetv2-nuscenes_infos_val.pkl", surround / "nuscenes_infos_val_sweeps_occ.pkl"

    ddad_size = ddad_layout.WIDTH, ddad_layout.HEIGHT
    ddad_frames = ddad_layout.infos()
    for entry in ddad_frames.values():
        for camera in (entry[name] for name in layout_ddad.CAMERAS):
            for pose in (camera["extrinsics"], camera["pose"]):
                pose["quat"] = pose["quat"].q
    sweep = {
        "filename": "a.npz",
        "pose": {"rotation": {"qw": 1, "qx": 0, "qy": 0, "qz": 0}, "translation": {"x": 1, "y": 2, "z": 0}},
    }
    seen = {"filename": "rgb/CAMERA_01/12.png"}
    scene = {
        "samples": [{"datum_keys": ["a", "b"]}],
        "data": [{"key": "a", "datum": {"point_cloud": sweep}}, {"key": "b", "datum": {"image": seen}}],
    }

    def ddad_frame(_: Path) -> object:
        look("ddad", ddad, "val", reads={"neighbours": (-1, 1)})
        inventory("ddad", ddad, "val")
        return DDAD(ddad, "val", image=small, neighbours=(-1, 1), semantics=True)[1]

    def scene_list(path: Path) -> object:
        prepare_ddad.sweeps.cache_clear()
        return prepare_ddad.sweeps(path.parent)

    def raw(tree: Tree) -> bytes:
        return as_npy(tree) if not isinstance(tree, dict) else np.asarray(tree.get("array", b"")).tobytes()

    def array_of(path: Path) -> dict[str, Any]:
        return {"array": np.load(path)}

    def pseudo(kind: str, compact: bool) -> Reader:
        """Of labels of images, 16 x 9 pixels of six cameras."""
        maps = np.arange(6 * 9 * 16).reshape(6, 9, 16) % 17
        honest = folder / "honest" / kind / "scene" / f"token.{'npz' if compact else 'npy'}"
        write(honest, maps, compact, "a test")
        read = read_classes if kind == SEMANTIC else read_metres

        def both(path: Path) -> object:
            return (source_of(path) if compact else ""), read(path, STORED[DEPTH], (16, 9))

        content = dict(np.load(honest)) if compact else array_of(honest)
        return Reader(content, as_npz if compact else as_npy, at(folder / f"{kind}{honest.suffix}"), both, (DataError,))

    def scored(content: Tree, suffix: str) -> Reader:
        """Of predictions as other systems write them."""

        def read(path: Path) -> object:
            try:
                return formats.read(path, grid("occ3d"))
            except formats.BadPrediction as error:
                raise PredictionFileError(f"{path} ({error})") from error  # as whoever scores says it

        encode = {"npz": as_npz, "npy": as_npy, "pkl": pickled}[suffix]
        return Reader(content, encode, at(folder / f"scored/token.{suffix}"), read, (PredictionFileError,))

    sweep = manifest.new(folder, "table_occ3d", "local", "x")
    sweep.entries = [manifest.Entry("table_occ3d", "toy", "tpvformer--cpu--seed0", "f")]
    sweep.save()

    def sweeps(_: Path) -> object:
        known = status.cells(manifest.load_all(folder, "table_occ3d"))
        return [status.state(entry, folder, {}) for entry in known], status.controllers(known)

    def notes(_: Path) -> object:
        return Notes(folder, "occ3d", occ3d, "val", [[jpg]] * 2).known(0)

    def table_of(path: Path) -> object:
        return [prepare_gaussianocc._pose(entry, path) for entry in prepare_gaussianocc.entries(path, "")]

    from experiments.datasets.kitti360 import read_labels as read_dense
    from experiments.datasets.occ3d import read_labels as read_occ3d
    from experiments.datasets.surroundocc import read_sparse_labels
    from experiments.datasets.transforms import read_depth

    def grid(name: str) -> Any:
        from experiments.datasets.registry import DATASETS

        return DATASETS.load(name).grid()

    def pickled(tree: Tree) -> bytes:
        return pickle.dumps(tree, 4)

    def infos(path: Path, kind: Any, root: Path, dataset: str) -> Reader:
        return Reader(load_infos(path), pickled, at(path), split_of(kind, root, dataset, "val"), (DataError,))

    data, own = (DataError,), (RecordError,)
    return {
        "occ3d infos": infos(occ3d_info, Occ3DNuScenes, occ3d, "occ3d"),
        "surroundocc infos": infos(surround_info, SurroundOccNuScenes, surround, "surroundocc"),
        "occ3d label": Reader(dict(np.load(label)), as_npz, at(folder / "l.npz"), lambda p: read_occ3d(p, grid("occ3d")), data),
        "kitti360 label": Reader(array_of(dense), as_npy, at(folder / "d.npy"), lambda p: read_dense(p, grid("kitti360")), data),
        "surroundocc label": Reader(
            array_of(sparse), as_npy, at(folder / "s.npy"), lambda p: read_sparse_labels(p, grid("surroundocc")), data
        ),
        "ddad infos": Reader(ddad_frames, pickled, at(layout_ddad.info_path(ddad, "val")), ddad_frame, data),
        "ddad mask": Reader(
            layout_ddad.mask_path(ddad, ddad_layout.SCENE, "CAMERA_07").read_bytes(),
            as_image,
            at(folder / "mask.png"),
            lambda p: layout_ddad.read_mask(p, ddad_size),
            data,
        ),
        "ddad scene": Reader(scene, as_json, at(folder / "scene/scene_1.json"), scene_list, data),
        "camera frames": Reader(
            dict(np.load(list_path(occ3d, "val"))), as_npz, at(list_path(folder, "val")), lambda p: read_list(folder, "val"), data
        ),
        "depth map": Reader(
            {"array": np.ones((32, 64), "f4")}, as_npy, at(folder / "m.npy"), lambda p: read_map(p, (64, 32)), data
        ),
        "semantics": Reader(
            {"array": np.full((32, 64), 2, np.int8)}, raw, at(folder / "m_mask.bin"), lambda p: read_semantics(p, (64, 32)), data
        ),
        "depth": Reader(array_of(depth), as_npy, at(folder / "depth.npy"), lambda p: read_depth(p, 64, 32, "make it"), data),
        "kitti360 frame": Reader(
            png.read_bytes(), as_image, at(png), lambda p: SSCBenchKITTI360(kitti, "test", image=ImageTransform(64, 16))[0], data
        ),
        "jpg": Reader(jpg.read_bytes(), as_image, at(folder / "a.jpg"), read_image, data),
        "png": Reader(png.read_bytes(), as_image, at(folder / "a.png"), read_image, data),
        "lidar points": Reader(
            {"array": points},
            raw,
            at(folder / "points/nuscenes/depth_gt/a.jpg.bin"),
            lambda p: read_points(folder / "points", image),
            data,
        ),
        "pseudo classes": pseudo(SEMANTIC, False),
        "pseudo depth": pseudo(DEPTH, False),
        "compact pseudo classes": pseudo(SEMANTIC, True),
        "compact pseudo depth": pseudo(DEPTH, True),
        "checkpoint": Reader(weights, as_torch(False), at(folder / "w.pth"), read_state_dict, (CheckpointError,)),
        "legacy checkpoint": Reader(weights, as_torch(True), at(folder / "o.pth"), read_state_dict, (CheckpointError,)),
        "resume": Reader(training, as_torch(False), at(folder / "iter_2.pth"), check_checkpoint, (CheckpointError,)),
        "prediction": Reader(dict(np.load(folder / "frame.npz")), as_npz, at(folder / "f.npz"), load, (PredictionFileError,)),
        "record": Reader(
            record,
            as_json,
            at(folder / "records/table_occ3d/toy/tpvformer--cpu--seed0.json"),
            from_record,
            own,
        ),
        "cell's record": Reader(record, as_json, at(cell.record_path), lambda p: cell.record(), own),
        "renderer record": Reader(
            json.loads(renderer.read_text()),
            as_json,
            at(folder / "renderers/table_renderers/m" / renderer.name),
            lambda p: list(renderer_records.load_all(folder / "renderers")),
            own,
        ),
        "quoted numbers": Reader(
            json.loads((ROOT / "results/quoted/table_occ3d.json").read_text()),
            as_json,
            at(folder / "table_q.json"),
            lambda p: records.load_quoted("table_q", folder),
            own,
        ),
        "state": Reader(state, as_json, at(cell.work_dir / "state.json"), no_error, ()),
        "toy world's note": Reader(
            {"fingerprint": "x"}, as_json, at(folder / "toy/toyworld.json"), lambda p: _holds(folder / "toy", "x"), ()
        ),
        "scored npz": scored({"pred": np.load(label)["semantics"]}, "npz"),
        "scored rows": scored({"array": np.array([[0.2, 0.2, 0.2, 4.0]])}, "npy"),
        "scored pickle": scored({"y_pred": np.load(label)["semantics"]}, "pkl"),
        "sweep": Reader(
            json.loads((sweep.folder / "sweep.json").read_text()),
            as_json,
            at(sweep.folder / "sweep.json"),
            sweeps,
            (manifest.SweepError,),
        ),
        "what a cell is at": Reader(
            {"iteration": 3, "iterations": 9, "seconds": 0.5},
            as_json,
            at(folder / "live" / LIVE),
            lambda p: status._live(p.parent),
            (),
        ),
        "lease": Reader(
            vars(lock.Holder(lock.machine(), "here", 2**22, "x")),
            as_json,
            at(folder / ".a.lease"),
            lambda p: lock.holder_of(folder / ".a.lock"),
            (),
        ),
        "notes of frames": Reader(
            {"frame": 0, "fingerprint": "x", "found": 1},
            as_json,
            at(Notes(folder, "occ3d", occ3d, "val", [[jpg]]).path),
            notes,
            (),
        ),
        "nuScenes' table": Reader(
            [{"token": "a", "rotation": [1, 0, 0, 0], "translation": [0, 0, 0]}],
            as_json,
            at(folder / "ego_pose.json"),
            table_of,
            data,
        ),
        "safetensors": Reader(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
            },
            as_safetensors,
            at(folder / "w.safetensors"),
            read_state_dict,
            (CheckpointError,),
        ),
        "official label": Reader(
            dict(np.load(label)), as_npz, at(folder / OFFICIAL_LABEL), lambda p: load_label(folder), (LabelError,)
        ),
    }


def child(seed: int, seconds: float, examples: int, names: list[str]) -> None:
    """Examples of every reader, for a time and so many at most; a line of JSON for each, and one for each finding."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    decide = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found = readers(Path(folder))
        for name in names:
            honest = found[name].encode(found[name].content)
            end = time.monotonic() + seconds / len(names)

            def example(number: int) -> None:
                _example(name, found[name], honest, end, number)  # noqa: B023 - called below

            with contextlib.suppress(_Over):
                hypothesis.seed(seed)(decide(given(st.integers(0, 2**64 - 1))(example)))()
            found[name].place(honest)


class _Over(Exception):
    """The time is."""


def _example(name: str, reader: Reader, honest: bytes, end: float, number: int) -> None:
    if time.monotonic() > end:
        raise _Over
    draw = Random(number)
    try:
        by_bytes = isinstance(reader.content, bytes) or draw.random() < 0.4
        data = damaged(honest, draw) if by_bytes else reader.encode(changed(reader.content, draw))
    except Exception:  # noqa: BLE001 - what cannot be written in this format
        return
    print(json.dumps({"at": name, "example": number}), flush=True)
    path = reader.place(data)
    signal.alarm(PATIENCE)
    try:
        reader.read(path)
    except reader.errors as error:
        if path.name not in str(error) and str(path.parent) not in str(error):
            print(json.dumps({"finding": f"does not name the file: {str(error)[:200]}"}), flush=True)
    except BaseException as error:  # noqa: BLE001
        print(json.dumps({"finding": f"{type(error).__name__}: {str(error)[:200]}"}), flush=True)
    finally:
        signal.alarm(0)


def fuzz(seconds: float, examples: int | None, seed: int, names: list[str]) -> tuple[int, list[str]]:
    """Processes one after the other until the time is over, or one with so many ``examples`` of each reader; the number of
    examples, and the findings."""
    findings: dict[str, None] = {}
    total, end = 0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        share = min(left, max(ROUND, seconds / 20))
        words = [sys.executable, __file__, "--child", str(seed), "--seconds", str(share), "--readers", *names]
        words += [] if examples is None else ["--examples", str(examples)]
        at = {"at": "the start", "example": 0}
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if "at" in said:
                    at = said
                    total += 1
                elif "finding" in said:
                    findings.setdefault(f"{at['at']}: {said['finding']} (example {at['example']})")
            errors = process.stderr.read()
        if process.returncode:
            how = f"signal {-process.returncode}" if process.returncode < 0 else errors.strip()[-500:]
            hang = ", more than its time" if process.returncode == -signal.SIGALRM else ""
            findings.setdefault(f"{at['at']}: ended by {how}{hang} (example {at['example']})")
        seed += 1
        if examples is not None or at["at"] == "the start":
            break
    return total, list(findings)


NAMES = (
    "occ3d infos",
    "surroundocc infos",
    "occ3d label",
    "kitti360 label",
    "surroundocc label",
    "ddad infos",
    "ddad mask",
    "ddad scene",
    "camera frames",
    "depth map",
    "semantics",
    "depth",
    "kitti360 frame",
    "jpg",
    "png",
    "lidar points",
    "pseudo classes",
    "pseudo depth",
    "compact pseudo classes",
    "compact pseudo depth",
    "checkpoint",
    "legacy checkpoint",
    "resume",
    "prediction",
    "record",
    "cell's record",
    "renderer record",
    "quoted numbers",
    "state",
    "toy world's note",
    "scored npz",
    "scored rows",
    "scored pickle",
    "sweep",
    "what a cell is at",
    "lease",
    "notes of frames",
    "nuScenes' table",
    "safetensors",
    "official label",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--examples", type=int, metavar="N", help="of each reader, instead of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = options.seconds if options.seconds is not None else 60 * options.minutes
    if options.examples is not None:
        seconds = math.inf
    if options.child is not None:
        child(options.child, seconds, options.examples or 100_000, options.readers)
        return 0
    total, findings = fuzz(seconds, options.examples, options.seed, options.readers)
    for finding in findings:
        print(finding)
    print(f"{total} examples of {len(options.readers)} readers: {len(findings)} findings")
    return 1 if findings or not total else 0


if __name__ == "__main__":
    sys.exit(main())
