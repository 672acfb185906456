"""Benchmarks of minicnn against others, the most careful that one machine allows.

    python -m bench                       training step of four nets (steps.py)
    python -m bench forward               forward pass, batch 64 and 1, against inference engines
    python -m bench integers              the same in 8-bit integers
    python -m bench ops                   single ops, forward and both gradients
    python -m bench growth                cost over batch, channels, pixels and threads
    python -m bench frameworks            a step of W2 in other frameworks
    python -m bench narrow                a step without AVX-512
    python -m bench memory                peak memory of a training step
    python -m bench startup               imports, and the time to a first finished batch, warm and cold
    python -m bench deploy                bits counted, channels removed, what sparse weights are worth
    python -m bench goals                 all of these beside the goals for speed (goals.py), in one table
    python -m bench gpu                   everything that needs a GPU, in one run of under ten minutes
    python -m bench ladder                from naive loops to register tiles, and the machine's limits
    pytest bench/test_ops.py              single kernels against the reference and PyTorch (pytest-benchmark)

    --quick                               a selection with few and short bursts: two minutes, rough figures
    --simulate                            of gpu: all its parts at tiny sizes, without a GPU
    --nets W1,W2 --threads 1 --engines minicnn,torch

How the times are taken: every engine lives in a process of its own and keeps its model, input and thread
pool warm. A round gives each engine in turn a burst of a few steps, A B C A B C ..., so that a machine which
slows down slows all of them. What is reported is the median over all steps, and the ratio to minicnn of
each round's medians with its quartiles: a ratio above 1 means that minicnn is faster.

The nets: W1 is conv3x3 32 - ReLU - pool - conv3x3 64 - ReLU - pool - fc 128 - ReLU - fc 10 on images of
3x32x32, W2 the same on 1x28x28, W3 conv+BN+ReLU+pool with 32, 64, 128 and 256 channels, fc 1024, ReLU, fc 10,
R20 is ResNet-20. A step is forward, cross-entropy, backward and SGD with momentum 0.9, through the public
API.

Every command prints a Markdown table and writes JSON with the machine, versions and the command into
`bench/results/`. An engine that is not installed, cannot do what is asked, or computes something else is
missing from the table, and a line below it says why.
"""
