"""Networks with a property instead of images: what they must never do, found, repaired and stated
with a confidence.

- property.py: what a property is: boxes of inputs, and what must not come out of them
- vnnlib.py: properties from VNN-LIB files
- nnet.py, onnx_files.py, onnx_writing.py: networks of those formats, read and written
- networks.py: a file of either format to a plain nn.Sequential
- answers.py: which end of the outputs is the answer; networks that answer by the lowest
- vectors.py: labelled inputs that are numbers and not images
- sampling.py: inputs inside the boxes, drawn and searched
- preparing.py: violations and well-behaved inputs, as the data of a repair
- pac.py: what a number of samples says about the rest of a box
- checking.py: a property before and after a repair, on inputs drawn when the repair was chosen
"""
