from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pcdiff
from pcdiff import checkpoint, denoising, mapped, recording, stepping, training, training_data
from pcdiff.bundle import Settings, build_denoiser
from pcdiff.config import Config, OptimConfig, load_config
from pcdiff.denoising import training_objective
from pcdiff.diffusion import Schedule
from pcdiff.distributed import ALONE
from pcdiff.errors import ConfigError, PcdiffError
from pcdiff.generator import Generator
from pcdiff.loader import CloudBatch, Drawn, Loader
from pcdiff.optimisers import Optimiser, build_optimiser
from pcdiff.run import locked
from pcdiff.seeds import Purpose, word
from pcdiff.training_data import TrainingData

from .test_transforms import jets


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return (
        pcdiff.write(jets(400, seed=1), folder / "train.parquet"),
        pcdiff.write(jets(100, seed=2), folder / "validation.parquet"),
    )


def config(files: tuple[Path, Path], output: Path, **changes: object) -> Config:
    settings = {
        "name": "tiny",
        "output": str(output),
        "seed": 3,
        "device": "cpu",
        "data": {"train": str(files[0]), "validation": str(files[1])},
        "net": {"kind": "epic", "hidden": 16, "layers": 1, "global_size": 4},
        "training": {
            "steps": 60,
            "points_per_batch": 200,
            "log_every": 1,
            "validate_every": 20,
            "checkpoint_every": 7,
            "compare": 0,
        },
        "multiplicity": {"layers": 1, "hidden": 8, "steps": 5},
        "tracking": {"enabled": False},
    }
    return Config.model_validate(settings | changes)


def weights(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "generator").glob("*.safetensors"))}


def losses(run: Path) -> list[tuple[int, float, float | None]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["metrics"]["loss/train"], line["metrics"].get("loss/validation")) for line in lines]


@pytest.fixture(scope="module")
def straight(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return training.train(config(files, tmp_path_factory.mktemp("runs") / "straight"), progress=False)


def test_a_run_leaves_all_that_sampling_needs(straight: Path) -> None:
    generator = Generator.load(straight)
    clouds = generator.sample(20, seed=1).validate()
    assert len(clouds) == 20
    assert generator.provenance["steps"] == 60
    assert generator.provenance["config_hash"] == json.loads((straight / "run.json").read_text())["config_hash"]
    assert len(losses(straight)) == 60
    assert [step for step, _, validation in losses(straight) if validation is not None] == [20, 40, 60]
    assert (straight / "figures" / "loss.png").stat().st_size > 10_000
    assert len(list((straight / "checkpoints").iterdir())) == 2


def test_killed_and_resumed_equals_undisturbed(straight: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGKILL at two random steps; weights and every line of losses agree bit for bit."""
    run = tmp_path / "killed"
    settings = config(files, run)
    script = (
        "import sys; from pcdiff.config import Config; from pcdiff.training import train; "
        "train(Config.model_validate_json(sys.stdin.read()), resume=True, progress=False)"
    )
    steps = sorted(int(step) for step in np.random.default_rng().integers(1, 55, 2))
    for stop in steps:
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(settings.model_dump_json())
        process.stdin.close()
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            log = run / "metrics.jsonl"
            if log.exists() and log.read_bytes().count(b"\n") >= stop:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    training.train(settings, resume=True, progress=False)
    assert weights(run) == weights(straight), f"killed near steps {steps}"
    assert losses(run) == losses(straight), f"killed near steps {steps}"


def test_ctrl_c_saves_and_resumes(
    straight: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "interrupted"
    settings = config(files, run)
    step = training.step

    def interrupted(*arguments: Any) -> tuple[float, list[int]]:
        found = step(*arguments)
        if arguments[-1].step == 25:
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(training, "step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="saved at step 25; continue with: pcdiff train --resume"):
        training.train(settings, progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert (run / "checkpoints" / "step_00000025").is_dir()
    assert Generator.load(run).provenance["steps"] == 25
    monkeypatch.undo()
    training.train(settings, resume=True, progress=False)
    assert weights(run) == weights(straight)


def test_a_damaged_checkpoint_is_passed_over(
    straight: Path, files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "damaged"
    settings = config(files, run)
    training.train(settings, progress=False)
    newest = run / "checkpoints" / "step_00000060" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    training.train(settings, resume=True, progress=False)
    assert "missing or damaged" in caplog.text
    assert weights(run) == weights(straight)


def test_a_bad_step_is_skipped_and_counted(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = denoising.draw

    def poisoned(schedule: Schedule, batch: CloudBatch, settings: Config, rng: torch.Generator) -> Drawn:
        poison = rng.initial_seed() == stepping.stream_of(3, Purpose.STEP, 11).initial_seed()
        found = drawn(schedule, batch, settings, rng)
        factor = found.numbers["factor"] * (math.nan if poison else 1.0)
        return Drawn(found.batch, {**found.numbers, "factor": factor})

    monkeypatch.setattr(denoising, "draw", poisoned)
    run = training.train(config(files, tmp_path / "run"), progress=False)
    lines = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped"] == 1
    assert "loss/train" not in lines[11]
    assert np.isfinite(Generator.load(run).sample(10).column("ptrel")).all()


def test_persistent_bad_steps_stop_the_run_with_the_last_good_checkpoint(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = denoising.losses
    calls = []

    def poisoned(*arguments: object) -> torch.Tensor:
        calls.append(1)
        return loss(*arguments) * (math.nan if len(calls) > 15 else 1.0)

    monkeypatch.setattr(denoising, "losses", poisoned)
    run = tmp_path / "run"
    with pytest.raises(PcdiffError, match="not finite 20 times in a row"):
        training.train(config(files, run, training={**config(files, run).training.model_dump(), "validate_every": 99}))
    assert all(torch.isfinite(value).all() for value in Generator.load(run).denoiser.state_dict().values())


def test_a_run_is_not_overwritten_nor_resumed_with_another_config(straight: Path, files: tuple[Path, Path]) -> None:
    settings = config(files, straight)
    with pytest.raises(PcdiffError, match="there is a run already"):
        training.train(settings, progress=False)
    with pytest.raises(PcdiffError, match="seed was 3, is 4"):
        training.train(settings.model_copy(update={"seed": 4}), resume=True, progress=False)
    changed = config((files[1], files[1]), straight)
    with pytest.raises(PcdiffError, match=r"data\.train was"):
        training.train(changed, resume=True, progress=False)


def test_an_edited_config_of_the_run_is_refused(straight: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """What was trained is in run.json; the config that the run folder holds is for people to read."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("steps: 60\n", "steps: 61\n"))
    with pytest.raises(PcdiffError, match=r"run: cannot resume with another config: training\.steps was 60, is 61$"):
        training.train(load_config(run), resume=True, progress=False)
    about = json.loads((run / "run.json").read_text())
    del about["params"]
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(PcdiffError, match=r"run\.json: lacks params"):
        training.train(load_config(run), resume=True, progress=False)


def test_a_damaged_generator_does_not_stop_a_run_that_is_resumed(
    straight: Path, files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model of the number of points follows from the seed, so it is fitted again, bit for bit."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "checkpoints" / "step_00000060")
    (run / "generator" / "multiplicity.safetensors").write_bytes(b"")
    training.train(config(files, run), resume=True, progress=False)
    assert "the model of the number of points is fitted again" in caplog.text
    assert weights(run) == weights(straight)


def compared(files: tuple[Path, Path], output: Path) -> Config:
    settings = config(files, output)
    return settings.model_copy(update={"training": settings.training.model_copy(update={"compare": 10})})


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGTERM in C", "SIGINT"])
def test_an_end_within_the_comparison_loses_nothing_else(
    how: str, straight: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is kept before, a signal is answered at once, and the run that is resumed makes the comparison, once."""
    run = tmp_path / "run"

    def ended(*_: object) -> dict[str, float]:
        if how == "SIGKILL":
            raise RuntimeError("killed")
        try:
            os.kill(os.getpid(), getattr(signal, how.split(maxsplit=1)[0]))
        except BaseException as left:
            if how.endswith("C"):
                # As energyflow's distances do.
                raise RuntimeError("KeyboardInterrupt received") from left
            raise
        pytest.fail("went on")

    monkeypatch.setattr(training, "_compare", ended)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    expected: dict[str, tuple[type[BaseException], str]] = {
        "SIGKILL": (RuntimeError, "killed"),
        "SIGTERM": (SystemExit, "143"),
        "SIGTERM in C": (SystemExit, "143"),
        "SIGINT": (KeyboardInterrupt, "saved at step 60; continue with: pcdiff train --resume"),
    }
    kind, said = expected[how]
    with pytest.raises(kind, match=said):
        training.train(compared(files, run), progress=False)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert (run / "checkpoints" / "step_00000060").is_dir()
    assert weights(run) == weights(straight)
    assert losses(run) == losses(straight)
    calls: list[object] = []
    monkeypatch.setattr(training, "_compare", lambda *given: (calls.append(given), {"validation/w1": 2.0})[1])
    for _ in range(2):
        training.train(compared(files, run), resume=True, progress=False)
    assert len(calls) == 1
    *lines, last = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 60
    assert (json.loads(last)["step"], json.loads(last)["metrics"]) == (60, {"validation/w1": 2.0})
    assert weights(run) == weights(straight)


def test_a_checkpoint_of_a_newer_version_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = config(files, run)
    training.train(settings, progress=False)
    for state in run.glob("checkpoints/*/state.json"):
        data = json.loads(state.read_text())
        state.write_text(json.dumps(data | {"format_version": checkpoint.FORMAT_VERSION + 1}))
    with pytest.raises(PcdiffError, match="has format version 2, expected at most 1"):
        training.train(settings, resume=True, progress=False)


def test_learning_rate_warms_up_and_falls_to_zero(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(files, tmp_path, optim={"warmup": 10})
    factors = [stepping.lr_factor(step, settings) for step in range(1, 61)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert np.all(np.diff(factors[10:]) < 0)
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_formats_give_the_same_batches(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The same jets through ROOT, RNTuple, JetNet HDF5 and Parquet: the same batches, bit for bit."""
    clouds = jets(200, types=True, seed=5)
    settings = config(files, tmp_path)
    expected = None
    for name, kind in (("a.parquet", None), ("a.hdf5", None), ("a.root", None), ("b.root", "rntuple")):
        path = pcdiff.write(clouds, tmp_path / name, format=kind)
        data = TrainingData.load(
            settings.model_copy(update={"data": settings.data.model_copy(update={"train": (str(path),)})})
        )
        batches = [(b.x, b.mask, b.cond) for b in Loader(data.train, 200, 3).epoch(0)]
        if expected is None:
            expected = batches
        assert data.fingerprint["train"] == clouds.fingerprint(), name
        for got, want in zip(batches, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name


@pytest.mark.parametrize("server", ["dead", "silent"])
def test_training_never_waits_for_the_tracking_server(
    server: str, straight: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is gone, and one that accepts and never answers: the loop's thread opens no connection, the run is
    the same bit for bit, and what the server lacks is sent later to another store."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if server == "silent":
        listener.listen()
    else:
        listener.close()
    callers: list[int] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: object) -> None:
        callers.append(threading.get_ident())
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr(recording, "_LAST_TRANSFER", 1.0)
    run = tmp_path / "run"
    tracking = {"uri": f"http://127.0.0.1:{port}", "interval": 0.05}
    training.train(config(files, run, tracking=tracking), progress=False)
    listener.close()
    assert threading.get_ident() not in callers
    assert weights(run) == weights(straight)
    assert losses(run) == losses(straight)

    from pcdiff.tracking import sync

    report = sync(run, f"sqlite:///{tmp_path / 'mlflow.db'}")
    lines = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert report.metrics == sum(len(line) for line in lines)


def batch_and_model(files: tuple[Path, Path], tmp_path: Path) -> tuple[Config, TrainingData, Any, Any, Any, Loader]:
    settings = config(files, tmp_path)
    data = TrainingData.load(settings)
    torch.manual_seed(0)
    model = build_denoiser(
        Settings(settings.net, settings.schedule, settings.multiplicity, settings.sampling), data.transform
    )
    loader = Loader(data.train, 200, 3)
    return settings, data, model, copy.deepcopy(model), build_optimiser(model, settings.optim), loader


def test_moving_average_follows_its_recurrence(files: tuple[Path, Path], tmp_path: Path) -> None:
    """ema <- d ema + (1 - d) weights with d = min(decay, (1 + k) / (10 + k)) after step k."""
    settings, data, model, ema, optimiser, loader = batch_and_model(files, tmp_path)
    counters, objective = checkpoint.Counters(), training_objective(settings, data.transform)
    expected = [parameter.detach().clone() for parameter in ema.parameters()]
    for k, batch in zip(range(1, 4), loader.epoch(0), strict=False):
        training.step(model, ema, optimiser, batch, loader.mean_batch, objective, settings, ALONE, [], counters)
        decay = (1 + k) / (10 + k)
        expected = [
            decay * old + (1 - decay) * new.detach() for old, new in zip(expected, model.parameters(), strict=True)
        ]
    for got, want in zip(ema.parameters(), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_gradient_is_clipped_and_scaled_by_the_mean_batch(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings, data, model, ema, optimiser, loader = batch_and_model(files, tmp_path)
    batch, objective = next(loader.epoch(0)), training_objective(settings, data.transform)
    norms = {}
    for scale in (loader.mean_batch, 2 * loader.mean_batch):
        counters = checkpoint.Counters()
        fresh = copy.deepcopy(model)
        optimiser = Optimiser([(torch.optim.SGD(fresh.parameters(), lr=0.0), 0.0)])
        norms[scale], _ = training.step(fresh, ema, optimiser, batch, scale, objective, settings, ALONE, [], counters)
        total = torch.stack([p.grad.norm() for p in fresh.parameters() if p.grad is not None]).norm()
        assert float(total) <= settings.optim.clip * (1 + 1e-5)
    first, second = norms.values()
    assert first == pytest.approx(2 * second, rel=1e-4)
    # What is logged is the mean over clouds, whatever the scale of the gradient.
    assert counters.loss_count == len(batch)


def test_reflections_flip_points_and_conditions_together(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Each of the four images of a cloud occurs with probability 1/4, and a flip of etarel is one of the jet's eta."""
    _, data, *_ = batch_and_model(files, tmp_path)
    n = 4000
    batch = CloudBatch(
        torch.ones(n, 2, 3), torch.ones(n, 2, dtype=torch.bool), torch.ones(n, data.transform.conditions)
    )
    made = denoising.reflected(batch, data.transform, stepping.stream_of(0, Purpose.STEP, 0))
    etarel, phirel, ptrel = made.x.unbind(2)
    assert bool((etarel[:, 0] == etarel[:, 1]).all())
    assert bool((ptrel == 1).all())
    assert bool((made.cond[:, 2] == etarel[:, 0]).all()), "the jet's eta flips with etarel"
    assert bool((made.cond[:, [0, 1, 3]] == 1).all())
    for image in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        share = ((etarel[:, 0] == image[0]) & (phirel[:, 0] == image[1])).double().mean()
        assert abs(float(share) - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5


def test_random_streams_do_not_meet() -> None:
    words = {
        word(seed, purpose, index) for seed in (0, 7, 7 + 2**32, 2**62) for purpose in Purpose for index in range(50)
    }
    assert len(words) == 4 * len(Purpose) * 50


def test_killed_between_generator_and_checkpoint(
    straight: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last step too, a resumed run ends with the generator of its last step."""
    run = tmp_path / "run"
    save = checkpoint.save

    def killed(folder: Path, counters: checkpoint.Counters, *rest: object, **more: object) -> Path:
        if counters.step == 60:
            raise RuntimeError("killed")
        return save(folder, counters, *rest, **more)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        training.train(config(files, run), progress=False)
    monkeypatch.undo()
    training.train(config(files, run), resume=True, progress=False)
    assert Generator.load(run).provenance["steps"] == 60
    assert weights(run) == weights(straight)


def test_features_in_another_order_are_another_config(straight: Path, files: tuple[Path, Path]) -> None:
    points = {"ptrel": "log", "etarel": "standard", "phirel": "standard"}
    with pytest.raises(PcdiffError, match=r"the features were features\.points\.etarel"):
        training.train(config(files, straight, features={"points": points}), resume=True, progress=False)


def test_a_folder_is_trained_in_by_one_process(straight: Path, files: tuple[Path, Path]) -> None:
    with locked(straight), pytest.raises(PcdiffError, match="another process is training"):
        training.train(config(files, straight), resume=True, progress=False)


def test_damaged_newer_checkpoints_do_not_displace_good_ones(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimiser = build_optimiser(model, OptimConfig())
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, checkpoint.Counters(step=step), model, model, optimiser, keep=3)
    (tmp_path / "checkpoints" / "step_00000030" / "state.json").write_text("{")
    found = checkpoint.load_newest(tmp_path, model, model, optimiser)
    assert found is not None
    assert found.step == 20
    checkpoint.save(tmp_path, checkpoint.Counters(step=25), model, model, optimiser, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000025"]


def test_a_run_ends_with_a_comparison(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(files, tmp_path / "run")
    training_settings = settings.training.model_copy(update={"steps": 3, "compare": 80})
    run = training.train(settings.model_copy(update={"training": training_settings}), progress=False)
    report = json.loads((run / "evaluation" / "metrics.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert report["samples"][0]["clouds"] == 80
    assert last["validation/w1_relative_mass"] == report["samples"][0]["metrics"]["w1_relative_mass"]["value"]


def test_features_that_the_data_lack_name_config_and_feature(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings = config(files, tmp_path, features={"points": {"etarell": "standard"}})
    with pytest.raises(
        PcdiffError, match=r"tiny: the features of the config do not fit the data: .*did you mean 'etarel'"
    ):
        training.train(settings, progress=False)
    assert not (tmp_path / "run.json").exists()


def settings_of(settings: Config, **changes: object) -> Config:
    return Config.model_validate(settings.model_dump() | changes)


def test_training_begins_from_another_generator(straight: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """At a vanishing learning rate the weights stay those of the start; on the same clouds so does the multiplicity model."""
    begun = config(files, tmp_path / "on", start=str(straight), seed=4, optim={"lr": 1e-30})
    run = training.train(settings_of(begun, training={**begun.training.model_dump(), "steps": 3}), progress=False)
    assert weights(run) == weights(straight)
    found, before = Generator.load(run), Generator.load(straight)
    assert found.transform == before.transform
    assert found.provenance["start"]["config_hash"] == before.provenance["config_hash"]


def test_other_clouds_keep_the_scales_of_the_start(straight: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """The net knows its own scales only; the number of points is learned anew."""
    others = pcdiff.write(jets(300, seed=9), tmp_path / "others.parquet")
    begun = config((others, files[1]), tmp_path / "on", start=str(straight), optim={"lr": 1e-30})
    run = training.train(settings_of(begun, training={**begun.training.model_dump(), "steps": 3}), progress=False)
    assert Generator.load(run).transform == Generator.load(straight).transform
    assert weights(run)["denoiser.safetensors"] == weights(straight)["denoiser.safetensors"]
    assert weights(run)["multiplicity.safetensors"] != weights(straight)["multiplicity.safetensors"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"net": {"kind": "epic", "hidden": 8, "layers": 1, "global_size": 4}}, "net"),
        ({"schedule": {"kind": "linear"}}, "schedule"),
        ({"features": {"clouds": {"pt": "standard", "eta": "standard", "mass": "log"}}}, r"features\.clouds"),
        ({"features": {"points": {"ptrel": "log", "etarel": "standard", "phirel": "standard"}}}, r"features\.points"),
    ],
)
def test_a_start_must_fit(
    changes: dict[str, object], named: str, straight: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"start: .*straight has {named} .*expected that of the config"):
        training.train(config(files, tmp_path / "on", start=str(straight), **changes), progress=False)
    assert not (tmp_path / "on").exists()


def test_pieces_on_the_disk_train_as_clouds_in_memory_do(
    straight: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, kept and encoded in pieces of a few clouds, and all at once in memory: weights and losses agree bit for bit."""
    settings = config(files, tmp_path / "pieces")
    monkeypatch.setattr(training_data, "_CLOUDS", 37)
    monkeypatch.setattr(mapped, "_POINTS", 100)
    training.train(settings, progress=False)
    monkeypatch.setattr(training_data, "read_clouds", lambda _config, names, _folder: pcdiff.read(names))
    monkeypatch.setattr(training_data, "_encoded", lambda clouds, transform, _folder: transform.encode(clouds))
    training.train(config(files, tmp_path / "memory"), progress=False)
    for name in ("pieces", "memory"):
        assert weights(tmp_path / name) == weights(straight), name
        assert losses(tmp_path / name) == losses(straight), name


def test_a_full_disk_ends_training_in_one_line(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PcdiffError, match=rf"{tmp_path}: not enough disk.*No space left on device") as caught:
        training.train(config(files, tmp_path / "run"), progress=False)
    assert not isinstance(caught.value, ConfigError)
    assert list(tmp_path.iterdir()) == []


def test_the_multiplicity_model_is_fitted_to_a_part_of_each_type(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 jets, half of each type, 60 of each: their rows belong together, and the fractions are those of all."""
    whole = TrainingData.load(config(files, tmp_path), folder=tmp_path)
    monkeypatch.setattr(training_data, "_FITTED", 120)
    some = TrainingData.load(config(files, tmp_path), folder=tmp_path)
    assert np.bincount(some.type_index).tolist() == [60, 60]
    assert some.types == whole.types
    rows = [np.column_stack([data.counts, data.features, data.type_index]) for data in (whole, some)]
    assert {row.tobytes() for row in rows[1]} < {row.tobytes() for row in rows[0]}
    assert len({row.tobytes() for row in rows[1]}) == 120
