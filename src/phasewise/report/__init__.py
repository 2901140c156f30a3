"""What a run log looks like to a person: rows for a table, and pictures. It reads logs and knows no simulator.

Matplotlib is imported when the first picture is drawn, not before.
"""

from phasewise.report.figures import compare_timelines, save, timeline
from phasewise.report.fleetfigure import fleet_timeline
from phasewise.report.rows import Row, side_by_side
from phasewise.report.waterfall import waterfall

__all__ = ["Row", "compare_timelines", "fleet_timeline", "save", "side_by_side", "timeline", "waterfall"]
