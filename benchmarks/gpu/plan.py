"""What a GPU measures, most wanted first."""

from typing import NamedTuple


class Job(NamedTuple):
    """One measurement, which leaves one file in the record.

    Attributes:
      name: its name, and that of its folder below runs/.
      kind: kind of the measurement: accuracy, time_to_accuracy or speed.
      seconds: about what it takes on an H100, with the start of its processes.
      config: name of the config.
      flags: further flags of the command; {runs} is the folder of all runs.
      needs: name of the job whose run it reads; "" for none.
      views: views to evaluate through, besides the config's own.
      keep: whether to keep the weights.
    """

    name: str
    kind: str
    seconds: float
    config: str = ""
    flags: tuple[str, ...] = ()
    needs: str = ""
    views: tuple[str, ...] = ()
    keep: bool = False


_ALL_VIEWS = ("one", "flip", "ten_crop")
_TEACHERS = "resnet_ensemble"
_STUDENT = ("--config.teachers=('{runs}/resnet_ensemble',)",)
_FIVE, _THREE = ("--config.ensemble=5",), ("--config.ensemble=3",)
_LARGE_BATCHES = ("--batch_size=512", "--seconds=0.3", "--name=batch_512")

# The seconds are estimates from steps that were timed on an H100; the plan corrects them by what
# the first jobs take.
JOBS = (
    Job("time_70", "time_to_accuracy", 60, "resnet_fast", ("--target=0.70",)),
    Job("resnet_ensemble", "accuracy", 350, "resnet_ensemble", views=_ALL_VIEWS, keep=True),
    Job("student", "accuracy", 280, "resnet_record", _STUDENT, _TEACHERS, _ALL_VIEWS, keep=True),
    Job("medium_cnn", "accuracy", 120, "published/medium_cnn", _THREE),
    Job("large_cnn", "accuracy", 80, "published/large_cnn", _THREE),
    Job("large_cnn_shift_flip", "accuracy", 170, "published/large_cnn_shift_flip", _THREE),
    Job("three_emotions", "accuracy", 150, "published/three_emotions", _THREE),
    Job("large_cnn_augmented", "accuracy", 260, "published/large_cnn_augmented", _THREE),
    Job("small_cnn", "accuracy", 50, "published/small_cnn", _FIVE),
    Job("speed", "speed", 180, flags=("--at_once", "--seconds=0.3")),
    Job("speed_512", "speed", 110, "resnet", _LARGE_BATCHES),
    Job("time_73", "time_to_accuracy", 240, "resnet", ("--target=0.73",)),
)

_TINY_CNN = "--config.model.layers=('max_pool','max_pool','flatten',('dense',8))"
_TINY_RUN = (
    *("--config.epochs=1", "--config.steps_per_epoch=2", "--config.warmup_epochs=0"),
    *("--config.batch_size=16", "--config.eval_batch_size=64", "--config.dtype=float32"),
)


def toy(job: Job) -> Job:
    """Returns a job at a size for a rehearsal on a CPU: a tiny network, two steps."""
    if job.kind == "speed":
        return job._replace(flags=(*job.flags, "--rounds=1", "--seconds=0.1"), seconds=60)
    resnet = job.config.startswith("resnet")
    model = ("--config.model.width=2", "--config.views=one") if resnet else (_TINY_CNN,)
    if job.kind == "time_to_accuracy":
        return job._replace(flags=(*_TINY_RUN, *model, "--target=0.01"), seconds=30)
    several = any("ensemble" in each for each in (job.config, *job.flags)) and not job.needs
    members = ("--config.ensemble=2",) if several else ()
    flags = (*job.flags, *_TINY_RUN, *model, *members)
    return job._replace(flags=flags, views=(), seconds=30)
