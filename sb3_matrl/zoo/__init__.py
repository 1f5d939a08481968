"""Command lines and what is behind them: train, enjoy, benchmark, sweep, report, games, doctor."""
