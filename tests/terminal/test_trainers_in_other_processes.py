import pickle
import signal

from pytorch_lightning import Trainer

from callbacks.show_batches import LogBatches
from catwalk.terminal.stopping import keep_sigterm, sigterm_raises


def trainer_with(*callbacks: LogBatches) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", callbacks=[*callbacks], logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    keep_sigterm(trainer)
    return trainer


def test_a_trainer_leaves_sigterm_to_who_handles_it() -> None:
    trainer = trainer_with()
    with sigterm_raises():
        ours = signal.getsignal(signal.SIGTERM)
        trainer._signal_connector.register_signal_handlers()
        assert signal.getsignal(signal.SIGTERM) is ours
        trainer._signal_connector.teardown()


def test_a_trainer_goes_to_processes_that_are_spawned() -> None:
    trainer = pickle.loads(pickle.dumps(trainer_with(LogBatches("fit"))))
    assert any(isinstance(callback, LogBatches) for callback in trainer.callbacks)
    connector = trainer._signal_connector
    register = connector.register_signal_handlers
    assert register.args[0].__self__ is connector  # and not one that the copied trainer does not have
    with sigterm_raises():
        ours = signal.getsignal(signal.SIGTERM)
        register()
        assert signal.getsignal(signal.SIGTERM) is ours
        connector.teardown()
