"""GRPO on verl 0.9.1: data, profiles, the plugin that verl loads, and the launcher.

    dataset.py      rows under augmented policies as verl's parquet files
    overrides.py    a profile of `profiles/` and a user's choices as hydra overrides
    launch.py       the run from rows to a merged checkpoint
    progress.py     verl's metrics as a line, a JSONL log and a plot
    merge.py        verl's shards as a checkpoint folder that `proguard-edge export` reads
    plugin.py       what every process of verl imports (`VERL_USE_EXTERNAL_MODULES`):
                    fixes.py · parts.py · cpu.py (platform) · hf_rollout.py, generate.py (rollout)
    reward_fn.py    verl's entry to `train.reward`

verl lives in an environment of its own, for its pins conflict with those of other stages.
"""
