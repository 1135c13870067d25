"""Pictures and figures of what ran, each a pure function of task records.

live        graph and profile of code as it runs: `dr.graph`, `dr.profile`
graph       what waits for what: networkx, dot, SVG, PNG; with fold (few boxes) and dot (running Graphviz)
profile     where the time went, as a text table
timeline    what ran when, as an SVG picture
chrome      the same for Perfetto and Chrome
style       colours, units and rows that they share; intervals: arithmetic of times
"""

from dagrun.viz.chrome import save_chrome_trace
from dagrun.viz.graph import Graph
from dagrun.viz.live import graph, profile
from dagrun.viz.profile import Profile
from dagrun.viz.timeline import save_timeline

__all__ = ["Graph", "Profile", "graph", "profile", "save_chrome_trace", "save_timeline"]
