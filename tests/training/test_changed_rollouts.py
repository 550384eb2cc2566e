"""Settings that change while a run goes on: what is made anew, with what coefficient, and what is recorded of it."""

import io
import types

import jax
import pytest

from dpojax.objectives.policy_gradient import KL_COEF, NEXT_KL_COEF
from dpojax.training.rollouts import Rollout
from dpojax.training.runlog import RunLog
from tests.training.test_rollouts import same
from tests.training.tiny_rollouts import EvenShare, make_stage

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_what_was_written_after_a_rollout_that_is_made_anew_is_not_read(tmp_path):
  """Another reward may have led another way: later roll-outs belong to a policy that there never was."""
  stage = make_stage(tmp_path, method="rloo")
  stage.run(9)
  folder = tmp_path / "rollouts"
  assert sorted(path.name for path in folder.iterdir()) == ["000000.npz", "000001.npz", "000002.npz"]
  (folder / "000000.npz").unlink()
  again = make_stage(tmp_path, method="rloo", rollout=dict(missing_eos="replace"))
  metrics = again.run(9)
  assert [row["policy/approx_kl"] for row in metrics[::4]] == [0, 0, 0]


def test_settings_changed_inside_a_rollout_take_a_new_one_for_what_is_left(tmp_path):
  stage = make_stage(tmp_path, method="rloo", kl_controller="adaptive", kl_horizon=50.0)
  stage.run(5)
  earlier = jax.device_get(stage.trainer.state)
  stage.run(1)
  state = jax.device_get(stage.trainer.state)

  def changed(state, identity="other"):
    options = dict(identity=identity)
    again = make_stage(tmp_path, method="rloo", kl_controller="adaptive", kl_horizon=50.0, options=options)
    return again.restore(state)

  first = changed(state)
  metrics = first.run(1)
  assert metrics[0]["policy/approx_kl"] == 0
  assert [step for step, _ in first.records] == [6]
  assert first.records[0][1]["objective/kl_coef"] == pytest.approx(float(state.running[KL_COEF]))
  between = jax.device_get(first.trainer.state)
  first.run(2)
  killed = changed(between)
  killed.run(2)
  assert same(jax.device_get(killed.trainer.state), jax.device_get(first.trainer.state))
  assert [step for step, _ in killed.records] == [8]
  # Back before the change, as where the newest checkpoint is damaged: what a later policy wrote is not for this one.
  back = changed(earlier)
  assert back.run(1)[0]["policy/approx_kl"] == 0 and back.records[0][0] == 5


CONTROLLERS = {"fixed": {}, "adaptive": dict(kl_horizon=50.0), "exponential": dict(kl_target=1e-3)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("at", [3, 4, 5])
def test_another_kl_coef_is_what_the_next_rollout_begins_with(tmp_path, controller, at):
  """In the middle of a roll-out, at its end, killed before the next: a state on disk knows what it began with."""

  def going_on(state, kl_coef):
    options = dict(method="rloo", learning_rate=1e-2, kl_controller=controller, **CONTROLLERS[controller])
    return make_stage(tmp_path, kl_coef=kl_coef, options=dict(identity=str(kl_coef)), **options).restore(state)

  stage = make_stage(tmp_path, method="rloo", learning_rate=1e-2, kl_controller=controller, **CONTROLLERS[controller])
  stage.run(at)
  state = jax.device_get(stage.trainer.state)
  going_on(state, 1.0)  # begun and killed before a roll-out: nothing but the state is left of it
  changed = going_on(state, 1.0)
  changed.run(9 - at)
  coefs = {step: metrics["objective/kl_coef"] for step, metrics in changed.records}
  assert coefs.pop(at) == 1.0
  others = {step: coef for step, coef in coefs.items() if step > at}
  assert others and all((coef == 1.0) == (controller == "fixed") for coef in others.values())
  # Under the setting that it had all along a controller goes on from where it was.
  same_setting = going_on(jax.device_get(changed.trainer.state), 1.0)
  running = {name: float(value) for name, value in same_setting.trainer.state.running.items()}
  same_setting.run(4)
  step, metrics = same_setting.records[-1]
  assert step == 12 and metrics["objective/kl_coef"] == pytest.approx(running[NEXT_KL_COEF], rel=1e-6)


def test_a_rollout_made_anew_at_its_first_step_is_the_one_that_is_recorded(tmp_path):
  class Hundred(EvenShare):
    def __call__(self, answers):
      return super().__call__(answers) + 100

  def recorded():
    return [row["objective/reward"] for row in log.records("rollout")]

  with RunLog(tmp_path, stream=io.StringIO()) as log:
    stage = make_stage(tmp_path, method="rloo")
    stage.rollouts.keep_in(types.SimpleNamespace(log=log, oldest_step=lambda: 0))
    stage.rollouts(0)
    before = recorded()
    changed = make_stage(tmp_path, method="rloo", reward=Hundred(), options=dict(identity="other"))
    made = changed.rollouts.begin(0, 0)  # on disk, and killed before it is recorded
    assert recorded() == before and made.metrics["objective/reward"] > 100 > before[0]
    for _ in range(2):  # a start that reads it, and another
      again = make_stage(tmp_path, method="rloo", reward=Hundred(), options=dict(identity="other"))
      again.rollouts.keep_in(types.SimpleNamespace(log=log, oldest_step=lambda: 0))
      again.rollouts(0)
      assert recorded() == [made.metrics["objective/reward"]]
  assert Rollout.read(tmp_path / "rollouts" / "000000.npz", "other").metrics == made.metrics
