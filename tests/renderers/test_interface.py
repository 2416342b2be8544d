"""Settings, dialects and the registry."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import renderers.registry as registry
from renderers import Availability, RendererUnavailable, UnknownRenderer, availability, get, names
from renderers.dialects import DIALECTS
from renderers.interface import RasterSettings, validate
from renderers.reference import ReferenceRenderer
from renderers.scenes import random_scene


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extent": "circle"}, "extent must be one of iso, tile3sigma, got 'circle'"),
        ({"clamp": "none"}, "clamp must be one of"),
        ({"depth": "median"}, "depth must be one of accumulated, expected"),
        ({"near": 5.0, "far": 1.0}, "near < far"),
        ({"near": 0.0}, "near < far"),
        ({"near": -1.0}, "near < far"),
        ({"far": math.nan}, "near < far"),
        ({"low_pass": -0.1}, "low_pass must not be negative"),
        ({"low_pass": math.inf}, "low_pass must not be negative or infinite"),
        ({"low_pass": math.nan}, "low_pass must not be negative"),
        ({"alpha_min": 0.0}, "alpha_min must lie"),
        ({"alpha_min": 0.5, "alpha_max": 0.4}, "alpha_max must lie"),
        ({"alpha_max": 1.5}, "alpha_max must lie"),
        ({"alpha_max": math.nan}, "alpha_max must lie"),
        ({"alpha_max": 1.0}, "alpha_max must lie .* behind one opaque Gaussian"),
        ({"alpha_max": 1.0, "transmittance_min": 0.0}, "alpha_max must lie"),
        ({"transmittance_min": 0.1}, "alpha_max must lie"),
        ({"transmittance_min": 1.0}, "transmittance_min must lie"),
        ({"transmittance_min": -1e-4}, "transmittance_min must lie"),
        ({"tile_size": 0}, "tile_size must be a whole number"),
        ({"tile_size": 16.0}, "tile_size must be a whole number"),
        ({"tile_size": 1 << 40}, "tile_size must be a whole number"),
        ({"near": "0.2"}, "near must be a number"),
        ({"far": None}, "far must be a number"),
        ({"clamp_gradient": "no"}, "clamp_gradient must be True or False"),
        ({"legacy_fov_y": 1}, "legacy_fov_y must be True or False"),
        ({"background": [0.0, 1.0]}, "background must be a tensor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RasterSettings(**settings)  # type: ignore[arg-type]


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    gaussians, cameras = random_scene(count=6, channels=3, width=16, height=12)
    validate(replace(gaussians, features=torch.full_like(gaussians.features, 3e38)), cameras, RasterSettings(), None)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_a_valid_setting_that_the_reference_honours(name: str) -> None:
    settings = RasterSettings().with_(**DIALECTS[name].settings)
    assert all(getattr(settings, key) == value for key, value in DIALECTS[name].settings.items())
    assert not ReferenceRenderer().departures(settings)
    assert ReferenceRenderer().native(settings) == settings


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownRenderer, match="unknown renderer 'gslat'; did you mean 'gsplat'"):
        get("gslat")
    with pytest.raises(UnknownRenderer, match="known: reference"):
        get("zzz")


def test_an_unavailable_backend_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    state = Availability(False, "it needs a moon", "go to one with a moon")
    monkeypatch.setattr(ReferenceRenderer, "availability", classmethod(lambda cls: state))
    with pytest.raises(RendererUnavailable, match="'reference' is not available here: it needs a moon. .*go to one"):
        get("reference")


@pytest.mark.parametrize("name", names())
def test_every_backend_answers_whether_it_can_run(name: str) -> None:
    state = availability(name)
    assert bool(state) or (state.reason and state.remedy)
    if state:
        assert get(name).name == name
    else:
        with pytest.raises(RendererUnavailable, match=name):
            get(name)


def test_backends_are_imported_only_when_asked_for() -> None:
    code = (
        "import sys, renderers; renderers.names(); loaded = set(sys.modules);"
        "print([m for m in loaded if m in ('renderers.reference', 'renderers.cpu', 'gsplat', 'mmdet3d', 'mlflow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_registered_targets_exist() -> None:
    for name in names():
        assert registry.load(name).name == name
