"""Runtime: where a run computes, how it is seeded, what fits, and how it goes on after a kill.

- runtime.py (`Runtime`): what every stage of a run shares; all else here is behind it.
- accelerators.py: Accelerators, made or refused.
- stages.py (`Stage`): seconds and peak memory of a stage.
- memory.py: what fits in memory, and what to do where it does not.
- randomness.py: seeds, and the states of generators.
- processes.py: what several processes agree on, average and share.
- batch_norms.py (`sharded`): statistics over the batch of all processes.
- boundary.py (`public`): what every public function does around its work.
- journal.py (`Journal`): resume to the same bits.
"""
