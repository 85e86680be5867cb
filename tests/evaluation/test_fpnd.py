from __future__ import annotations

import functools
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcdiff.clouds import PointClouds
from pcdiff.errors import DataError
from pcdiff.evaluation import fpnd as module
from pcdiff.evaluation.fpnd import activations, fetch_fpnd_resources, fpnd, fpnd_resources, frechet_from_real
from pcdiff.schema import jet_schema

INSIDE = "jetnet/evaluation/fpnd_resources/jetnet/30_particles"
WHEEL = "jetnet-0.2.5-py3-none-any.whl"


def network() -> dict[str, torch.Tensor]:
    """Random weights of the stored network's names and shapes."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def layer(name: str, width: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, width, generator=generator) / np.sqrt(width)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)

    width = 3
    for block, outputs in enumerate((64, 128, 256)):
        for position, inputs in ((0, 2 * width), (3, outputs), (6, outputs)):
            name = f"edge_nets.{block}.model.{position}"
            layer(name, inputs, outputs)
            norm = f"edge_nets.{block}.model.{position + 1}"
            for part in ("weight", "running_var"):
                state[f"{norm}.{part}"] = 0.5 + torch.rand(outputs, generator=generator)
            for part in ("bias", "running_mean"):
                state[f"{norm}.{part}"] = torch.randn(outputs, generator=generator)
        width += outputs
    layer("fc1.0", width, 256)
    return state


@pytest.fixture(scope="module")
def wheel() -> bytes:
    """A wheel laid out as the library's."""
    stored = io.BytesIO()
    torch.save(network() | {"fc2.weight": torch.zeros(5, 256)}, stored)
    rng = np.random.default_rng(1)
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr(f"{INSIDE}/pnet_state_dict.pt", stored.getvalue())
        for type in "gqt":
            root = rng.normal(size=(256, 256))
            for name, values in (("mu", rng.normal(size=256)), ("sigma", root @ root.T)):
                text = io.StringIO()
                np.savetxt(text, values)
                archive.writestr(f"{INSIDE}/{type}_{name}.txt", text.getvalue())
    return body.getvalue()


@pytest.fixture
def server(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with the wheel, whose sum is the expected one."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / WHEEL).write_bytes(wheel)
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def resources(server: str, tmp_path: Path) -> Path:
    return fetch_fpnd_resources(tmp_path / "cache" / "fpnd.safetensors", base_url=server, progress=False)


def shuffled(clouds: PointClouds) -> PointClouds:
    """The constituents of each jet in another order."""
    rng = np.random.default_rng(2)
    order = np.concatenate(
        [start + rng.permutation(count) for start, count in zip(clouds.offsets, clouds.counts, strict=False)]
    )
    points = {name: clouds.column(name)[order] for name in clouds.schema.point_names}
    features = {name: clouds.feature(name) for name in clouds.schema.cloud_names}
    return PointClouds.from_flat(points, clouds.offsets, features, clouds.schema)


def test_what_is_fetched_is_what_the_wheel_holds(resources: Path) -> None:
    stored = load_file(resources)
    for name, tensor in network().items():
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(256, 256))
    np.testing.assert_allclose(stored["g_mean"], rng.normal(size=256), rtol=1e-12)
    np.testing.assert_allclose(stored["g_covariance"], root @ root.T, rtol=1e-12)
    assert "fc2.weight" not in stored
    assert [path.name for path in resources.parent.iterdir()] == [resources.name]


def test_a_wheel_of_another_sum_is_not_opened(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHA256", "0" * 64)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError, match=r"its SHA-256 sum is \w{64}, expected 0{64}: damaged; removed"):
        fetch_fpnd_resources(tmp_path / "new" / "file", base_url=server, progress=False)
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_there_is_kept(resources: Path) -> None:
    before = resources.stat().st_mtime_ns
    assert fetch_fpnd_resources(resources, base_url="http://127.0.0.1:1") == resources
    assert resources.stat().st_mtime_ns == before


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCDIFF_CACHE", str(tmp_path))
    assert fpnd_resources() == tmp_path / "fpnd_jetnet30.safetensors"
    with pytest.raises(DataError, match=r"is not there; run: pcdiff data fetch fpnd"):
        fpnd(PointClouds.from_flat({"pt": []}, [0], {}, jet_schema(["pt"], [])), "g")
    fpnd_resources().write_bytes(b"not a file of tensors")
    with pytest.raises(DataError, match=r"is not a safetensors file"):
        activations(PointClouds.from_flat({"pt": []}, [0], {}, jet_schema(["pt"], [])))
    monkeypatch.delenv("PCDIFF_CACHE")
    assert fpnd_resources().parts[-3:] == (".cache", "pcdiff", "fpnd_jetnet30.safetensors")


def test_the_network_is_that_of_the_formula(toy_jets, resources: Path) -> None:
    """One jet, slot by slot and neighbour by neighbour, in float64 and without folding anything."""
    jet = toy_jets(1, seed=3)
    state = {name: tensor.double() for name, tensor in network().items()}
    slots = np.zeros((30, 3))
    slots[: jet.num_points] = np.stack([jet.column(name) for name in ("etarel", "phirel", "ptrel")], axis=1)
    x = torch.from_numpy(slots / [1.6211985349655151, 0.520724892616272, 0.8934717178344727] + [0, 0, -0.5])
    for block in range(3):
        places = x[:, :2] if block == 0 else x
        rows = []
        for i in range(30):
            others = sorted((float((places[i] - places[j]).norm()), j) for j in range(30) if j != i)
            messages = torch.stack([torch.cat([x[i], x[j] - x[i]]) for _, j in others[:16]])
            for position in (0, 3, 6):
                name, norm = f"edge_nets.{block}.model.{position}", f"edge_nets.{block}.model.{position + 1}"
                messages = messages @ state[f"{name}.weight"].T + state[f"{name}.bias"]
                centered = (messages - state[f"{norm}.running_mean"]) / (state[f"{norm}.running_var"] + 1e-5).sqrt()
                messages = (centered * state[f"{norm}.weight"] + state[f"{norm}.bias"]).relu()
            rows.append(torch.cat([messages.mean(dim=0), x[i]]))
        x = torch.stack(rows)
    expected = x.mean(dim=0) @ state["fc1.0.weight"].T + state["fc1.0.bias"]
    np.testing.assert_allclose(activations(jet, resources=resources)[0], expected, rtol=1e-4, atol=1e-4)


def test_activations_know_neither_order_nor_batches(toy_jets, resources: Path) -> None:
    clouds = toy_jets(40, seed=4)
    found = activations(clouds, resources=resources)
    np.testing.assert_allclose(activations(shuffled(clouds), resources=resources), found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(activations(clouds, resources=resources, batch=7), found, rtol=1e-4, atol=1e-4)


def test_distance_of_normal_activations_is_that_of_their_normal_distribution(resources: Path) -> None:
    # Activations with exactly the stored mean and covariance are at distance zero; moved by 1 in each, at 256.
    stored = load_file(resources)
    mean, covariance = stored["q_mean"].numpy(), stored["q_covariance"].numpy()
    white = np.random.default_rng(5).normal(size=(600, 256))
    white = np.linalg.qr(white - white.mean(axis=0))[0] * np.sqrt(599)
    exact = mean + (white - white.mean(axis=0)) @ np.linalg.cholesky(covariance).T
    scale = np.trace(covariance)
    assert frechet_from_real(exact, np.ones((1, 600)), "q", resources=resources)[0] == pytest.approx(
        0, abs=1e-6 * scale
    )
    moved = frechet_from_real(exact + 1, np.ones((1, 600)), "q", resources=resources)[0]
    assert moved == pytest.approx(256, abs=1e-6 * scale)


def test_weights_stand_for_repeated_jets(toy_jets, resources: Path) -> None:
    clouds = toy_jets(60, seed=6)
    half = np.repeat([1.0, 0.0], 30)
    assert fpnd(clouds, "g", weights=half, resources=resources) == pytest.approx(
        fpnd(clouds[:30], "g", resources=resources), rel=1e-6
    )


def test_jets_that_it_is_not_defined_for(toy_jets, resources: Path) -> None:
    clouds = toy_jets(3, seed=7)
    with pytest.raises(DataError, match=r"FPND: no jet type 'w'"):
        fpnd(clouds, "w", resources=resources)
    with pytest.raises(DataError, match=r"found 1 jets, expected at least 2"):
        fpnd(clouds[:1], "g", resources=resources)
    names = ["etarel", "phirel", "ptrel"]
    large = PointClouds.from_flat({name: np.ones(31) for name in names}, [0, 31], {}, jet_schema(names, []))
    with pytest.raises(DataError, match=r"at most 30 constituents, found one of 31; take the leading 30 first"):
        fpnd(large, "g", resources=resources)
    # What is stored is plain numbers: nothing else would be loaded.
    save_file({"x": torch.zeros(1)}, resources)
    with pytest.raises(DataError, match=r"lacks"):
        fpnd(clouds, "g", resources=resources)
