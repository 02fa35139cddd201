// Preloaded into every service of a stack: when the process that started it is gone, however it ended, the
// service stops as if it had been told to.
process.on("disconnect", () => process.kill(process.pid, "SIGTERM"));
