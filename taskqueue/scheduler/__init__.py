"""The scheduler: fires the ticks of all schedules. One leads, the others stand by."""
