"""What compression costs in accuracy: experiments that compare with published results, one command each.

    python -m bench.experiments fashion                   every compression of W2 on Fashion-MNIST, 3 seeds
    python -m bench.experiments pareto --seeds 1          its models as files: bytes, latency, memory
    python -m bench.experiments lenet --data DIR          LeNet-300-100 and LeNet-5 pruned 12 times and more
    python -m bench.experiments deep-compression --data DIR   both as files 40 times smaller and more
    python -m bench.experiments lottery --data DIR        lottery tickets in LeNet-300-100
    python -m bench.experiments hinton --data DIR         a student with and without its teacher
    python -m bench.experiments binary --data DIR         a network of signs
    python -m bench.experiments fashion --quick           the same on a few images: does it run?

DIR is a folder of MNIST's idx files. Every row that is finished stands in the record (JSON, with a Markdown
table beside it) in `bench/results/compression/` and is not run again, so an experiment may be broken off at
any moment and gone on with by the same command. The models lie in `runs/experiments/`.

Options belong on held-out training images: `--held-out 0.1` trains without a tenth of the training images and
tests on that tenth. Four recipes in the records were changed after test errors had been seen, once each, and
not tuned on them: the LeNets pruned 12 times and more (they learn from the dense net now), LeNet-300-100's
Deep Compression (more shared values), the student on Fashion-MNIST (temperature 2) and Hinton's (rate 0.02).
"""
