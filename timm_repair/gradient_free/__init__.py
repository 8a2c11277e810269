"""Few weights, moved without gradients.

- neurons.py: where neurons are read, and which weights scale them
- scaling.py: the neurons responsible for a misbehaviour, scaled by factors that the swarm finds
- causes.py: the neurons that outputs follow when they are set
- impact.py: what single weights have to do with the answers; patching.py: those that are chosen
- drawing.py: the examples that a search is told by; judging.py: what candidates cost, on them
- searching.py: round by round, and what the selection split keeps
- told.py: pymoo behind ask and tell, which goes on after a kill; swarm.py, evolution.py: its two
- least_change.py: the smallest change of a linear layer that meets constraints, a linear program
"""
