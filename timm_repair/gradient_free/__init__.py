"""Few weights, moved without gradients.

- neurons.py: where neurons are read, and which weights scale them
- swarm.py: a particle swarm behind ask and tell, which goes on after a kill
- scaling.py: the neurons responsible for a misbehaviour, scaled by factors that the swarm finds
- least_change.py: the smallest change of a linear layer that meets constraints, a linear program
"""
