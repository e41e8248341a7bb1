"""What a recipe will take: arithmetic that any machine can do, and a short measurement for it.

    work.py        recipe and counts -> the stages with their images and floating point operations
    selected.py    how many images are selected, by class
    stored.py      bytes of each artifact
    devices.py     types of devices, and how much of their peak an EfficientNet gets
    prices.py      what an hour of a device and a month of storage cost
    profile.py     what was measured on a machine, as a file
    counts.py      how many images there are
    kept.py        what a store knows of them and of labels already
    timing.py      seconds of a stage, here or on devices
    estimate.py    all of these -> hours, images a second, bytes and money, each with its source

    sampling.py    a sample of a person's images (worker)
    counting.py    floating point operations of a network (worker)
    sampled.py     short runs of training, labelling and evaluation (worker)
    measure.py     the process that measures: `python -m ns_core.planning.measure`

Only those marked with (worker) load torch; `measure` does when it runs.
"""
