"""When schedules are due: cron expressions, fixed intervals, time zones. Pure functions of an instant."""
