"""Compile the original CUDA rasterizer from its public source, and verify it: ``python -m renderers.build diff_gauss``.

The source is the Inria/MPII rasterizer as extended for GaussRender: free for non-commercial research and evaluation only.
It is fetched and built on the user's machine; nothing of it is part of this project.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from camera_occupancy_bench import files
from camera_occupancy_bench.commandline import Parser, finish
from renderers.cuda import cuda_state, nvcc

SOURCE = "https://github.com/valeoai/GaussRender"
COMMIT = "0714a19ebef31ce4a350558ec590747a57cc2423"
LICENCE = (
    "diff-gaussian-rasterization, Copyright (C) 2023 Inria and MPII: free for non-commercial research and evaluation use "
    "only (LICENSE.md of the source). By building it you accept that licence."
)
CHECKED_CASES = ("one_gaussian", "oblique", "equal_depths", "channels_20", "batch_views_visible", "moving", "random")


class BuildError(RuntimeError):
    """The rasterizer cannot be built here, or what was built is wrong."""


def missing(source: str) -> list[str]:
    """What this machine lacks for a build from ``source`` (a git URL or a folder), each with its remedy."""
    lacks = []
    if not Path(source).is_dir() and shutil.which("git") is None:
        lacks.append("git, to fetch the source (apt-get install git)")
    if torch.version.cuda is None:
        state = cuda_state()
        lacks.append(f"a CUDA torch: {state.reason} ({state.remedy})")
    compiler = nvcc()
    if compiler is None:
        lacks.append("nvcc, the CUDA compiler (install the CUDA toolkit that torch was built for and set CUDA_HOME)")
    elif torch.version.cuda is not None:
        toolkit = _toolkit_version(compiler)
        if toolkit.split(".")[0] != torch.version.cuda.split(".")[0]:
            lacks.append(
                f"a CUDA {torch.version.cuda.split('.')[0]} toolkit: {compiler} is CUDA {toolkit}, torch was built for "
                f"{torch.version.cuda} (set CUDA_HOME to a matching toolkit)"
            )
    if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
        lacks.append("a C++ compiler (apt-get install g++)")
    if importlib.util.find_spec("setuptools") is None:
        lacks.append("setuptools (pip install setuptools wheel)")
    return lacks


def _toolkit_version(compiler: Path) -> str:
    """ "13.0" of an nvcc, or "unknown"."""
    done = subprocess.run([str(compiler), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found.group(1) if found else "unknown"


def fetch(source: str, commit: str | None, folder: Path) -> Path:
    """The rasterizer's folder (with setup.py) below ``folder``, from a git URL at ``commit`` or from a local folder."""
    if Path(source).is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        # Large files of the source repository (model weights) are left where they are.
        environment = {**os.environ, "GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0"}
        for command in (
            ["init", "-q"],
            ["fetch", "-q", "--depth", "1", "--", source, commit or "HEAD"],
            ["checkout", "-q", "FETCH_HEAD"],
            ["submodule", "update", "-q", "--init", "--recursive", "--depth", "1"],
        ):
            done = subprocess.run(["git", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"git {command[0]} of {source} failed: {_first_line(done.stderr)}")
    found = sorted(path.parent.parent for path in folder.rglob("cuda_rasterizer/config.h"))
    if len(found) != 1 or not (found[0] / "setup.py").is_file():
        raise BuildError(f"{source} is not one rasterizer: found {len(found)} cuda_rasterizer/config.h with a setup.py above")
    if not (found[0] / "third_party/glm/glm/glm.hpp").is_file():
        raise BuildError(
            f"{source} lacks third_party/glm (its git submodule): run `git submodule update --init --recursive` in it"
        )
    return found[0]


def set_channels(rasterizer: Path, channels: int | None) -> int:
    """The compiled channel count of the source, after changing it to ``channels`` if that is given."""
    config = rasterizer / "cuda_rasterizer/config.h"
    text = config.read_text()
    pattern = re.compile(r"^(#define\s+NUM_CHANNELS\s+)(\d+)", re.MULTILINE)
    found = pattern.findall(text)
    if len(found) != 1:
        raise BuildError(f"{config} defines NUM_CHANNELS {len(found)} times, expected once")
    if channels is None:
        return int(found[0][1])
    config.write_text(pattern.sub(rf"\g<1>{channels}", text))
    return channels


def install(rasterizer: Path, arch: str | None, log: Path) -> None:
    """Build and install with pip against the torch of this environment; raises BuildError with the compiler's message."""
    environment = dict(os.environ)
    if arch is not None:
        environment["TORCH_CUDA_ARCH_LIST"] = arch
    # The source relies on <cstdint> coming with other headers, which GCC 13 ended.
    environment["NVCC_APPEND_FLAGS"] = f"{environment.get('NVCC_APPEND_FLAGS', '')} -include cstdint".strip()
    command = [sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "--force-reinstall"]
    with log.open("w") as stream:
        done = subprocess.run([*command, str(rasterizer)], env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        errors = [line for line in log.read_text().splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)]
        raise BuildError(f"the build failed: {_first_line(chr(10).join(errors))} (whole log: {log})")


def verify(channels: int) -> list[str]:
    """Hold the installed rasterizer to ``reference`` on this GPU; one line a case. Raises BuildError at a difference."""
    from renderers.conformance import CASES, check
    from renderers.diff_gauss import DiffGaussRenderer

    renderer = DiffGaussRenderer()
    if renderer.build.colours != channels:
        raise BuildError(f"the installed rasterizer has {renderer.build.colours} channels, {channels} were asked for")
    results = [check(renderer, CASES[name](), device="cuda") for name in CHECKED_CASES]
    for result in results:
        if not result.ok:
            raise BuildError(f"the installed rasterizer differs from the reference.\n{result}")
    return [str(result).splitlines()[0] for result in results]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def build(source: str, commit: str | None, channels: int | None, arch: str | None) -> None:
    """Check, fetch, compile, install, verify; leaves build.json in the installed package."""
    lacks = missing(source)
    if arch is None and torch.version.cuda is not None and not torch.cuda.is_available():
        lacks.append("a visible GPU to build for (or name its architecture: --arch 9.0)")
    if lacks:
        raise BuildError("this machine lacks\n  - " + "\n  - ".join(lacks))
    print(LICENCE)
    log = Path(tempfile.gettempdir()) / "diff_gauss-build.log"
    with tempfile.TemporaryDirectory(prefix="diff_gauss-") as folder:
        print(f"fetching {source} {commit or ''}")
        rasterizer = fetch(source, commit, Path(folder))
        compiled = set_channels(rasterizer, channels)
        print(f"compiling for {compiled} channels, which takes minutes (log: {log})")
        install(rasterizer, arch, log)
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("diff_gauss") or importlib.util.find_spec("diff_gaussian_rasterization")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("pip reported success but neither diff_gauss nor diff_gaussian_rasterization can be found")
    facts = {"source": source, "commit": commit, "channels": compiled, "arch": arch, "torch": torch.__version__}
    files.write(Path(spec.submodule_search_locations[0]) / "build.json", json.dumps(facts, indent=1) + "\n")
    if not torch.cuda.is_available():
        print("installed, not verified: there is no GPU here. Run this command again on the machine with the GPU.")
        return
    for line in verify(compiled):
        print(line)
    print("installed and verified: use it with --renderer diff_gauss")


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit code is 1 with one message on stderr where the build cannot be done."""
    parser = Parser(
        "python -m renderers.build", "Compile the original CUDA rasterizer from its public source, and verify it.", LICENCE
    )
    parser.add_argument("renderer", choices=["diff_gauss"], help="The renderer.")
    parser.add_argument("--channels", type=int, metavar="N", help="Channels to compile in. Default: those of the source, 19.")
    parser.add_argument("--source", default=SOURCE, metavar="PLACE", help="Git URL or folder of a rasterizer of this family.")
    parser.add_argument("--commit", help=f"Commit of --source. Default: {COMMIT[:7]} of the default source.")
    parser.add_argument("--arch", help='CUDA architectures as for TORCH_CUDA_ARCH_LIST, such as "8.0;9.0".')
    options = parser.parse_args(arguments)
    if options.channels is not None and options.channels < 1:
        parser.error("--channels must be at least 1")
    commit = options.commit or (COMMIT if options.source == SOURCE else None)
    try:
        build(options.source, commit, options.channels, options.arch)
    except RuntimeError as error:  # BuildError, and RendererUnavailable from the verification
        print(f"error: cannot build {options.renderer}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
