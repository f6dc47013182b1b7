"""Result records become the published page: tables, accuracy-latency figures, and a check that they are current."""

from leaderboard.board import Leaderboard

__all__ = ["Leaderboard"]
