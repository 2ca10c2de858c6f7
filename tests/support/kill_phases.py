"""Phases of a learner and of a retrain that kills fall into."""

from typing import Final, NamedTuple


class Phase(NamedTuple):
    """A function of the learner; another line here is another phase that kills fall into."""

    module: str
    function: str
    entries: int  # among the first so many of a life one is chosen
    lines: int  # among the first so many lines of it the kill comes; sooner in a call that is shorter


PHASES: Final = {  # to add one is to name its function; first those that are at a life's beginning only
    "growing": Phase("stream.tables.hash_table", "HashTable._move", 2, 8),
    "copying an anchor": Phase("learner.training.frozen_model", "ModelCopy.step", 4, 30),
    "learning": Phase("learner.training.model", "Model.learn_records", 60, 60),
    "evicting keys": Phase("stream.tables.eviction", "Evictor._evict_range", 40, 10),
    "evicting ids": Phase("learner.deep.vocabulary", "Vocabulary._remove", 2, 12),
    "judging": Phase("learner.training.held_out", "HeldOut.act", 20, 100),
    "copying a slice": Phase("learner.checkpoints.checkpointer", "Checkpointer._next_slice", 12, 40),
    "cutting a checkpoint": Phase("learner.checkpoints.checkpointer", "Checkpointer.cut", 3, 300),
    "writing a checkpoint": Phase("learner.checkpoints.writer", "CheckpointWriter.run", 3, 1_000),
    "dropping checkpoints": Phase("learner.checkpoints.checkpoint_files", "CheckpointFiles.drop_old", 3, 40),
    "building a version": Phase("learner.publishing.version_builder", "VersionBuilder.build", 8, 150),
    "folding deltas": Phase("learner.publishing.delta_chain", "DeltaChain._merge", 2, 12),
    "building a base": Phase("learner.publishing.delta_chain", "DeltaChain._rebase", 2, 12),
    "publishing": Phase("learner.publishing.uploader", "Uploader._upload_with_retries", 8, 80),
}
PROMOTION: Final = {  # of a life that finds a new model
    "restoring a new model": Phase("learner.promotion", "Promotion._restore", 1, 300),
    "catching up": Phase("learner.promotion", "_Candidate.learn_to", 4, 60),
    "replacing the model": Phase("learner.learner", "Learner.replace_model", 1, 400),
    "going on with the new model": Phase("learner.checkpoints.checkpoint_files", "CheckpointFiles.write", 1, 200),
    "waiting for its checkpoint": Phase("learner.promotion", "Promotion._forget_once_saved", 3, 2),
    "promoting": Phase("learner.promotion", "Promotion._promote", 1, 500),
    "clearing the verdict": Phase("learner.promotion", "Promotion._forget", 1, 6),
}
RETRAIN: Final = {  # of a retrain; each is entered once and has more lines, so every kill comes
    "taking the lock": Phase("learner.retraining.retrain_files", "RetrainFiles._begin", 1, 150),
    "reading the window": Phase("learner.retraining.retrain_process", "RetrainJob._window", 1, 100),
    "carrying over": Phase("learner.retraining.retraining", "carry_over", 1, 20_000),
    "training on the window": Phase("learner.retraining.retraining", "train_on_window", 1, 30_000),
    "learning what follows": Phase("learner.retraining.retrain_process", "RetrainJob._learn", 1, 200_000),
    "comparing": Phase("learner.retraining.retraining", "judge", 1, 200),
    "removing the last outcome": Phase("learner.retraining.retrain_files", "RetrainFiles.clear", 1, 60),
    "writing the candidate": Phase("learner.checkpoints.checkpoint_files", "CheckpointFiles.write", 1, 1_000),
    "writing the verdict": Phase("learner.retraining.retrain_files", "RetrainFiles._write_verdict", 1, 150),
}
EVERY: Final = PHASES | PROMOTION | RETRAIN
assert len(EVERY) == len(PHASES) + len(PROMOTION) + len(RETRAIN), "a name stands for two phases"
