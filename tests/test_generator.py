from __future__ import annotations

import hashlib
import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch

from pcdiff.bundle import Description, Settings, build_denoiser
from pcdiff.config import EpicConfig, MultiplicityConfig, SamplingConfig, ScheduleConfig
from pcdiff.diffusion import SAMPLERS
from pcdiff.diffusion.guidance import Constrained
from pcdiff.errors import DataError, ModelError, PcdiffError
from pcdiff.generator import Generator
from pcdiff.io import write
from pcdiff.multiplicity import build_multiplicity
from pcdiff.resources import pretrained
from pcdiff.sampling_loop import pieces, workers
from pcdiff.transforms import Transform, cloud_columns

from .test_transforms import CLOUDS, POINTS, jets


def sign(file: Path, data: dict[str, Any]) -> None:
    """Write what a generator.json says, with the checksum that fits it."""
    content = {name: value for name, value in data.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    file.write_text(json.dumps(content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}))


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Untrained but for its transform and multiplicity table, with weights that are not zero."""
    clouds = jets(300)
    transform = Transform.fit(clouds, POINTS, CLOUDS)
    settings = Settings(
        EpicConfig(hidden=16, layers=2, global_size=4),
        ScheduleConfig(),
        MultiplicityConfig(kind="empirical"),
        SamplingConfig(steps=4),
    )
    torch.manual_seed(0)
    denoiser = build_denoiser(settings, transform)
    torch.nn.init.normal_(denoiser.net.exit.weight, std=0.1)
    multiplicity = build_multiplicity(settings.multiplicity, 3, 2)
    features = np.stack(list(cloud_columns(clouds, list(CLOUDS)).values()), 1)
    types = transform.type_index(clouds)
    multiplicity.fit(clouds.counts, features, types, 0)
    share = tuple((np.bincount(types) / len(types)).tolist())
    return Generator(denoiser, multiplicity, transform, settings, share, {"name": "test", "config_hash": "abc"})


def test_a_seed_names_its_clouds(generator: Generator) -> None:
    first = generator.sample(40, seed=7)
    assert generator.sample(40, seed=7).equals(first)
    assert not generator.sample(40, seed=8).equals(first)


def test_a_cloud_does_not_depend_on_how_many_are_asked_for(generator: Generator) -> None:
    """The noise of cloud i depends on (seed, i) alone, also across blocks; values agree to 1e-4."""
    many, few = generator.sample(2500, seed=3), generator.sample(1100, seed=3)
    same = many[:1100]
    np.testing.assert_array_equal(few.counts, same.counts)
    for name in few.schema.point_names:
        np.testing.assert_allclose(few.column(name), same.column(name), rtol=1e-4, atol=1e-4)
    for name in few.schema.cloud_names:
        np.testing.assert_array_equal(few.feature(name), same.feature(name))


def test_pieces_join_to_the_whole(generator: Generator) -> None:
    pieces = list(generator.iterate(17_000, seed=1, steps=1))
    assert len(pieces) == 2
    assert sum(len(piece) for piece in pieces) == 17_000
    assert np.unique(np.concatenate([piece.feature("phi") for piece in pieces])).size > 16_900


def test_progress_counts_each_cloud_once(generator: Generator) -> None:
    seen: list[int] = []
    generator.sample(3000, steps=1, progress=seen.append)
    assert sum(seen) == 3000
    assert len(seen) > 1


def test_clouds_are_physical(generator: Generator) -> None:
    clouds = generator.sample(2000, seed=2).validate()
    ptrel = clouds.column("ptrel")
    falls = np.diff(ptrel) <= 0
    starts = clouds.offsets[1:-1] - 1
    falls[starts] = True
    assert falls.all(), "constituents come by falling pT"
    phi = clouds.feature("phi")
    assert (np.abs(phi) < np.pi).all()
    # uniform in azimuth: the mean of a unit vector over n clouds is within 5 / sqrt(n)
    assert abs(np.exp(1j * phi.astype(np.float64)).mean()) < 5 / np.sqrt(len(phi))
    assert set(np.unique(clouds.feature("type"))) == {0, 2}


def test_one_type_alone(generator: Generator) -> None:
    assert (generator.sample(50, conditions={"type": "t"}).feature("type") == 2).all()
    with pytest.raises(DataError, match="no type 'w'"):
        generator.sample(5, conditions={"type": "w"})


def test_given_sizes_and_features_are_kept(generator: Generator) -> None:
    given = jets(30, seed=9)
    made = generator.sample(given=given)
    np.testing.assert_array_equal(made.counts, given.counts)
    for name in ("pt", "eta", "mass", "type"):
        np.testing.assert_array_equal(made.feature(name), given.feature(name))


def test_saved_and_loaded_it_makes_the_same_clouds(generator: Generator, tmp_path: Path) -> None:
    generator.save(tmp_path / "run" / "generator")
    for path in (tmp_path / "run", tmp_path / "run" / "generator"):
        loaded = Generator.load(path)
        assert loaded.sample(20, seed=5).equals(generator.sample(20, seed=5))
    assert loaded.transform == generator.transform
    assert loaded.provenance["config_hash"] == "abc"
    metadata = loaded.sample(2, seed=5).provenance
    assert json.loads(json.dumps(metadata))["sampling"]["seed"] == 5
    assert metadata["generator"]["files"]["denoiser.safetensors"]


def test_a_damaged_or_foreign_folder_gives_one_line(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        Generator.load(tmp_path / "none")
    generator.save(tmp_path)
    weights = tmp_path / "denoiser.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="SHA-256"):
        Generator.load(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"denoiser.safetensors: is missing"):
        Generator.load(tmp_path)
    file = tmp_path / "generator.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"format_version": 99}))
    with pytest.raises(ModelError, match="format version 99"):
        Generator.load(tmp_path)
    del data["transform"]
    sign(file, data)
    with pytest.raises(ModelError, match="not a complete generator"):
        Generator.load(tmp_path)


def test_a_folder_of_other_things_is_not_replaced(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("thesis", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="thesis: is a folder with other things than a generator, expected a new"):
        generator.save(tmp_path / "thesis")
    with pytest.raises(DataError, match="file: is a file, expected a folder for a generator"):
        generator.save(tmp_path / "file")
    with pytest.raises(ModelError, match="gluon30: comes with pcdiff and stays as it is"):
        generator.save(pretrained()["gluon30"])
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError, match="is the working directory"):
        generator.save(".")
    assert [(tmp_path / name).read_text() for name in ("thesis/chapter.tex", "file")] == ["mine", "mine"]
    for _ in range(2):
        generator.save(tmp_path / "empty" / "new")
    assert Generator.load("new").transform == generator.transform


def test_generator_json_comes_back_as_it_was_or_not_at_all(generator: Generator, tmp_path: Path) -> None:
    """Each digit that makes another number counts; how the JSON is laid out does not."""
    generator.save(tmp_path)
    file = tmp_path / "generator.json"
    text = file.read_text()
    data = json.loads(text)
    digits = [match.start() for match in re.finditer(r"\d", text)]
    others = (f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}" for place in digits)
    # The seventeenth digit of a number may be that of the same double.
    changed = [other for other in others if json.loads(other) != data]
    assert len(changed) > 0.95 * len(digits) > 300
    for other in changed:
        file.write_text(other)
        with pytest.raises(ModelError, match=r"generator\.json: (is damaged|has format version)"):
            Description.read(tmp_path)
    file.write_text(json.dumps({name: value for name, value in data.items() if name != "sha256"}))
    with pytest.raises(ModelError, match=r"generator\.json: is damaged: its SHA-256 is not the one that it states"):
        Generator.load(tmp_path)
    file.write_text(json.dumps(data, sort_keys=True, indent=7))
    assert Generator.load(tmp_path).provenance["files"]["generator.json"] == data["sha256"]


def test_generator_json_that_is_nested_as_deep_as_python_goes_is_one_line(generator: Generator, tmp_path: Path) -> None:
    generator.save(tmp_path)
    file = tmp_path / "generator.json"
    text = file.read_text().rstrip().removesuffix("}")
    for deep in range(700, 1100, 3):
        file.write_text(f'{text}, "more": {"[" * deep}{"]" * deep}}}')
        with pytest.raises(PcdiffError, match=r"generator\.json: is (damaged|not valid JSON)"):
            Description.read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "cannot generate 0"),
        ({"n": 5, "steps": 0}, "steps = 0"),
        ({"n": 5, "grid": "geometric"}, "grid = 'geometric'"),
        ({"n": 5, "grid": "fitted"}, "steps = 4: no grid was fitted for so many, only for none"),
        ({"n": 5, "sampler": "euler", "order": 2}, "order = 2: expected no order for the sampler euler"),
        ({"n": 5, "options": {"churn": 1.0}}, "options = .*churn.*: expected an option of the sampler ddim: eta"),
        ({"n": 5, "options": {"eta": -1.0}}, "options = .*eta.*: expected a number from 0"),
        ({"n": 5, "guidance": 2.0}, "guidance = 2.0: the generator was trained without denoiser.drop_conditions"),
        ({"n": 5, "order": 9}, "order = 9"),
        ({"n": 5, "device": "cuda:77"}, "device 'cuda:77' is not available"),
        ({}, "say how many"),
    ],
)
def test_settings_out_of_range_give_one_line(generator: Generator, settings: dict, message: str) -> None:
    with pytest.raises(PcdiffError, match=message) as caught:
        generator.sample(**settings)
    assert "\n" not in str(caught.value)


def test_output_that_is_not_finite_is_refused(generator: Generator) -> None:
    broken = Generator(
        generator.denoiser, generator.multiplicity, generator.transform, generator.settings, generator.types
    )
    weight = broken.denoiser.net.exit.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(ModelError, match="not finite"):
            broken.sample(5)
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_given_azimuth_is_kept_and_contradictions_are_refused(generator: Generator) -> None:
    given = generator.sample(20, seed=4)
    again = generator.sample(given=given, seed=5)
    np.testing.assert_array_equal(again.feature("phi"), given.feature("phi"))
    with pytest.raises(DataError, match="choose conditions or given"):
        generator.sample(given=given, conditions={"type": "t"})


def test_a_seed_is_a_whole_number_from_zero(generator: Generator) -> None:
    with pytest.raises(DataError, match="seed is -1; expected"):
        generator.sample(3, seed=-1)
    fraction: Any = 1.5
    with pytest.raises(TypeError, match="integer"):
        generator.sample(3, seed=fraction)


@pytest.mark.parametrize("order", [1, 2])
def test_the_chosen_order_is_the_one_that_runs(generator: Generator, order: int) -> None:
    used = generator.sample(30, order=order, steps=3)
    other = generator.sample(30, order=3 - order, steps=3)
    assert used.provenance["sampling"]["order"] == order
    assert not used.equals(other)


STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.stochastic and name != "ddim"]


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_each_sampler_gives_the_same_cloud_whatever_is_asked_for_besides(generator: Generator, name: str) -> None:
    """Values agree to 1e-4, fresh noise included; those of rk45, whose clouds share a step size, to its tolerance."""
    chosen = {"seed": 3, "sampler": name, "steps": 6}
    many, few = generator.sample(1200, **chosen), generator.sample(40, **chosen)
    tolerance = 5e-3 if name == "rk45" else 1e-4
    # Two points of almost the same pT may change places.
    for feature in few.schema.point_names:
        a, b = (np.sort(ak.to_numpy(ak.flatten(ak.sort(part.points[feature], axis=1)))) for part in (few, many[:40]))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert few.provenance["sampling"]["sampler"] == name


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_is_that_of_the_seed(generator: Generator, name: str) -> None:
    first, again = (generator.sample(20, seed=5, sampler=name, steps=5) for _ in range(2))
    assert first.equals(again)


def test_eta_is_heard(generator: Generator) -> None:
    plain = generator.sample(20, seed=5, order=1)
    assert (
        generator.sample(20, seed=5, order=1, options={"eta": 0.0}).column("ptrel").tolist()
        == plain.column("ptrel").tolist()
    )
    noisy = generator.sample(20, seed=5, order=1, options={"eta": 1.0})
    ancestral = generator.sample(20, seed=5, sampler="ancestral")
    assert not np.allclose(noisy.column("etarel"), plain.column("etarel"))
    np.testing.assert_allclose(noisy.column("etarel"), ancestral.column("etarel"))


def test_options_are_overridden_one_by_one_and_forgotten_with_their_sampler(generator: Generator) -> None:
    stored = SamplingConfig(sampler="restart", order=3, steps=4, options={"repeats": 5.0})
    settings = replace(generator.settings, sampling=stored)
    chosen = settings.choose({"options": {"log_snr_high": 4.0}})
    assert chosen.options == {"repeats": 5.0, "log_snr_low": 0.0, "log_snr_high": 4.0}
    assert settings.sampling.options == {"repeats": 5.0}
    other = settings.choose({"sampler": "ddim"})
    assert (other.order, other.options) == (2, {"eta": 0.0})
    with pytest.raises(DataError, match=r"options\.repeats = inf: "):
        settings.choose({"options": {"repeats": float("inf")}})


def test_fitted_grids_are_kept_with_the_generator(generator: Generator, tmp_path: Path) -> None:
    generator.fit_grids((3, 6))
    try:
        assert set(generator.grids) == {3, 6}
        generator.save(tmp_path)
        loaded = Generator.load(tmp_path)
        assert loaded.grids == generator.grids
        made = loaded.sample(30, seed=2, grid="fitted", steps=6)
        assert made.equals(generator.sample(30, seed=2, grid="fitted", steps=6))
        assert not made.equals(generator.sample(30, seed=2, grid="log-snr", steps=6))
        with pytest.raises(DataError, match="only for 3, 6; fit one"):
            loaded.sample(3, grid="fitted", steps=7)
        with pytest.raises(DataError, match="numbers of steps are"):
            generator.fit_grids((0,))
        # Added to a folder they touch nothing else in it.
        generator.grids.clear()
        (tmp_path / "NOTES.txt").write_text("mine")
        before = json.loads((tmp_path / "generator.json").read_text())
        assert generator.save_grids(tmp_path) == tmp_path
        after = json.loads((tmp_path / "generator.json").read_text())
        assert after.pop("sha256") != before.pop("sha256")
        assert after == before | {"grids": {}}
        assert (tmp_path / "NOTES.txt").read_text() == "mine"
    finally:
        generator.grids.clear()


def test_a_generator_of_an_older_pcdiff_loads(generator: Generator, tmp_path: Path) -> None:
    generator.save(tmp_path)
    file = tmp_path / "generator.json"
    data = json.loads(file.read_text())
    for key in ("denoiser", "grids"):
        del data[key]
    data["format_version"] = 1
    data["sampling"] = {"sampler": "ddim", "order": 2, "steps": 4, "grid": "log-snr"}
    sign(file, data)
    assert Generator.load(tmp_path).sample(20, seed=5).equals(generator.sample(20, seed=5))


def test_a_guide_wraps_the_denoiser_for_the_right_clouds(generator: Generator) -> None:
    """A constraint that differs from cloud to cloud: the sum of standardised etarel is the cloud's number / 1000, to 1e-4."""
    n = 1500

    def guide(denoiser: Any, mask: torch.Tensor, clouds: np.ndarray) -> Constrained:
        wanted = torch.from_numpy(clouds / 1000).float()

        def constraint(x0: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return ((x0[..., 0] * mask).sum(1) - wanted)[:, None]

        return Constrained(denoiser, constraint)

    made = generator.sample(n, seed=1, guide=guide, denoise=True, steps=3)
    scale = next(scale for scale in generator.transform.points if scale.name == "etarel")
    total = ak.to_numpy(ak.sum(ak.unflatten(scale.forward(made.column("etarel")), made.counts), axis=1))
    np.testing.assert_allclose(total, np.arange(n) / 1000, atol=2e-4)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"sampler": "restart"}, {"precision": "bfloat16"}], ids=str)
def test_the_number_of_threads_changes_no_bit(generator: Generator, threads: None, options: dict[str, Any]) -> None:
    made = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(generator.sample(1500, seed=6, **options))
        assert torch.get_num_threads() == count
    assert made[0].equals(made[1])
    assert made[0].equals(made[2])


def test_workers_compute_in_one_thread_each_and_leave_all_others_alone(threads: None) -> None:
    torch.set_num_threads(3)
    seen: list[int] = []
    with workers(2) as pool:
        assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert [*seen, torch.get_num_threads()] == [3, 3]


def test_bfloat16_agrees_with_float32_to_its_rounding(generator: Generator) -> None:
    """Standardised points of an ODE sampler.

    bfloat16 rounds by u = 2^-8 at most. On the way of a point through this net's two layers, values are rounded at most 16 times, each time by
    u at most of its size, and each of 4 steps adds no more than that.
    """
    found = generator.conditions(0, 200, 1)
    noise, mask, cond = generator.batch(0, found, 1)
    ends = {}
    for precision in ("float32", "bfloat16"):
        chosen = generator.choose(precision=precision)
        ends[precision] = generator.solve(noise, mask, cond, np.arange(200), 1, chosen, torch.device("cpu"))[mask]
    difference = (ends["bfloat16"] - ends["float32"]).square().mean().sqrt()
    size = ends["float32"].square().mean().sqrt()
    assert 0 < float(difference / size) < 4 * 16 * 2**-8


def test_a_file_says_in_which_precision_it_was_made(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcdiff.precision._multiplies_bfloat16", lambda _: False)
    made = generator.sample(20, seed=5, precision="auto")
    assert made.provenance["sampling"]["precision"] == "float32"
    assert made.equals(generator.sample(20, seed=5))
    with pytest.raises(DataError, match="precision = 'float16'"):
        generator.sample(2, precision="float16")


def test_memory_does_not_grow_with_the_number_of_clouds(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays at the peak of 16 windows of 1,024 clouds against those of 4: were all kept, they would be four times as much.

    They are not the same, since threads may hold more or fewer pieces at a time.
    """
    monkeypatch.setattr("pcdiff.generator.WINDOW", 1024)
    peaks = {}
    for windows in (4, 16):
        tracemalloc.start()
        for _ in generator.iterate(windows * 1024, steps=1):
            pass
        peaks[windows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[16] < 2 * peaks[4]


def test_an_interrupt_leaves_neither_a_file_nor_threads(generator: Generator, tmp_path: Path) -> None:
    before = threading.active_count()

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(generator.iterate(5000, progress=interrupt), tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_a_guide_is_never_in_two_threads(generator: Generator, threads: None) -> None:
    torch.set_num_threads(3)
    seen = set()

    def guide(denoiser: Any, mask: torch.Tensor, clouds: np.ndarray) -> Any:
        seen.add(threading.get_ident())
        return denoiser

    assert generator.sample(1500, seed=2, steps=2, guide=guide).equals(generator.sample(1500, seed=2, steps=2))
    assert len(seen) == 1


@pytest.mark.parametrize("most", [1, 40, 5000])
def test_pieces_hold_each_cloud_once_and_no_more_points_than_fit(most: int) -> None:
    counts = np.random.default_rng(0).integers(1, most + 1, 9000)
    parts = list(pieces(np.argsort(counts, kind="stable"), counts, torch.device("cpu")))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(9000))
    padded = [len(part) * int(counts[part].max()) for part in parts]
    assert all(size <= 4096 or len(part) == 1 for size, part in zip(padded, parts, strict=True))
