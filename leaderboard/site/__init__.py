"""The leaderboard as one static HTML page for people: complete without scripts, explorable with them, never on the network."""
