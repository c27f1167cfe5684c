"""What the figures share, so that they look like one paper.

    looks.py     how a method and a fraction sent look: colours, markers, dashes, the legend's entries
    layout.py    a figure's panels, axes and legend
    curves.py    curves over rounds, with their interval as a band
    points.py    one number per run over some x, with its interval as bars
    by_keep.py   whole panels of such numbers by the fraction sent

Figures are matplotlib `Figure`s without pyplot, so drawing one needs no display, chooses no backend and keeps no state.
"""
