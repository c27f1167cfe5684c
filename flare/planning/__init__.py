"""What a sweep costs before it is run: runs, steps, operations, memory, uplink, and hours on this device.

    plan.py      `plan`: the costs of a configuration, a row per experiment; `show`: for a terminal
    count.py     what is counted: samples, operations, bits of the messages, memory
    measure.py   what is measured: seconds, by short runs of the real engine

Not in it: tables, figures and report, staleness, a sample of text, and what jobs side by side take from each other. A
start is counted for every run, even if `runs_per_job` saves some. An FFL run sends more as its loss falls, and trains
less.
"""
