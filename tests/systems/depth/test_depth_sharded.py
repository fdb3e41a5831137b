from __future__ import annotations

from tests.systems.sharding import assert_same_when_sharded
from vstrain.nn.frozen import Frozen

STUDENT = {"ratio": (1, 1), "labelled_weight": 0.5, "pseudo_weight": 0.5, "teacher": None,
           "alignment": {"size": "tiny", "init": "random", "weight": 1.0, "margin": 0.85}}  # fmt: skip


def test_a_student_with_a_teacher_and_a_reference_encoder(make_system, scene_batch):
    system = make_system(student=STUDENT)
    system.teacher = Frozen(make_system(seed=1).net)
    batch = scene_batch(count=4)
    batch["pseudo"][::2] = True
    assert_same_when_sharded(system, batch)
