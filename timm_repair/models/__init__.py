"""Models: one `nn.Module`, no data.

- partition.py (`blocks`): the blocks of a model; cutting.py says where they end.
- block.py (`Block`): a part of a model that can be taken out and replaced.
- tracing.py (`trace`): one dry forward pass: shapes, order, FLOPs.
- taps.py (`find_taps`): where each neuron is read.
- surgery.py (`extract`, `swap`, `restore`): take a block out, put another in.
- temporary.py: change a model for a while.
- weights.py: state dicts: copy, mix, compare, name.
- entering.py: run a model from a place in its middle.
"""
