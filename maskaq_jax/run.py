"""The whole algorithm on one page.

calibrate on noise -> [ synthesize -> fine-tune ... ] every refresh -> evaluate -> save

The first samples calibrate once more, on themselves.
"""

from collections.abc import Callable
from typing import Any

from maskaq_jax.runs import calibrating, expectation, results
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.measurements import Measurements
from maskaq_jax.runs.session import Session, open_session
from maskaq_jax.runs.training import Position, Training
from maskaq_jax.runs.training_images import TrainingImages, read_noise


def run(
    inputs: RunInputs,
    is_terminated: Callable[[], bool] = lambda: False,
    at_end: Callable[[Session, Any], None] = lambda session, variables: None,
) -> dict[str, Any]:
    """Quantizes P without data and writes `results.json`, which it returns.

    A run that was stopped continues from its newest whole checkpoint.

    Args:
      inputs: of `inputs.prepare`.
      is_terminated: asked after every step whether to save and stop, as by
        `interruption.catch_termination`.
      at_end: is given the session and Q's variables when the results are written.

    Raises:
      ConfigError: another run is at work in the directory.
      Interrupted: it was asked to stop, and the state is saved.
      FloatingPointError: synthesis or fine-tuning diverged.
      OSError: no evaluation image can be read, or a file or the disk fails.
    """
    with open_session(inputs, is_terminated) as session:
        images, measurements = TrainingImages(session), Measurements(session)
        training = Training(session, measurements)
        position = training.restore(images.has)
        expectation.tell(session, position and position.step, training.state_bytes)
        if position is None:
            position = _calibrate(session, images, training, measurements)
        if "calibrated" not in position.figures and session.plan.num_steps:
            position = position.with_figures(
                "calibrated", measurements.accuracy_of_q(position.state.variables)
            )
        first_samples = images.read_first()
        for steps in session.plan.rounds(position.step):
            refresh = session.plan.refresh_of(steps.start)
            samples = images.of_refresh(refresh, position.state.variables)
            position = training.run(position, steps, samples, first_samples)
        session.checkpoints.wait_until_finished()
        variables = position.state.variables
        accuracy = measurements.accuracy_of_q(variables)
        agreement = None if accuracy else measurements.agreement(variables, images.newest)
        summary = results.finish(session, position, accuracy, agreement)
        at_end(session, variables)
        return summary


def _calibrate(
    session: Session, images: TrainingImages, training: Training, measurements: Measurements
) -> Position:
    """Q before training: quantizers from noise, then from the first samples."""
    inputs = session.inputs
    accuracy_of_p = measurements.accuracy_of_p()
    # Synthesis couples P with Q, so Q needs quantizers before there is an image: noise gives the
    # first ones.
    variables = calibrating.choose_ranges(inputs, read_noise(inputs, session.key))
    samples = images.of_refresh(0, variables)
    is_synthetic = inputs.config.samples.calibration == "synthetic"
    read_images = samples if is_synthetic else read_noise(inputs, session.key)
    if inputs.config.calibration.fits:
        variables = calibrating.fit(session, read_images)
    elif is_synthetic:
        variables = calibrating.choose_ranges(inputs, read_images)
    return training.start(variables, accuracy_of_p)
