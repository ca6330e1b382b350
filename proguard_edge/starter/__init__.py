"""The embedded starter: a small English text guard, so that a fresh install gives verdicts."""
