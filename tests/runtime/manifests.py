"""The manifests of the small models that tests run: they tell dark, middle and bright pixels or frames."""

from __future__ import annotations

from aselect_runtime.records import ClassInfo, Manifest, Noise, Resize, Task, TensorSpec

HEIGHT, WIDTH = 24, 32
CLASSES = (
    ClassInfo(name="dark", colour=(20, 30, 200)),
    ClassInfo(name="middle", colour=(40, 200, 60)),
    ClassInfo(name="bright", colour=(230, 60, 50)),
)


def small_manifest(task: Task = "seg", batch: int = 1, resize: Resize | None = None) -> Manifest:
    """Without a model file."""
    outputs = {
        "seg": (
            TensorSpec(name="class_map", dtype="uint8", shape=(batch, HEIGHT, WIDTH)),
            TensorSpec(name="confidence", dtype="float32", shape=(batch, HEIGHT, WIDTH)),
        ),
        "cls": (TensorSpec(name="scores", dtype="float32", shape=(batch, len(CLASSES))),),
    }
    return Manifest(
        task=task,
        classes=CLASSES,
        resize=resize or Resize(),
        input=TensorSpec(name="frames", dtype="uint8", shape=(batch, HEIGHT, WIDTH, 3)),
        outputs=outputs[task],
        precision="fp32",
        taps=(),
        noise=Noise(alpha=1, sigma=0, model_timestep=0),
        files={},
    )
