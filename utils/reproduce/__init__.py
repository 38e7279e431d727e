"""The paper's table: its rows as recipes, their runs, and what the runs' records say."""
