// Work on the CUDA device that is queued once and run many times; see core/device_graph.h. Its tensors live in a pool of
// their own, whose blocks keep their addresses until the set is freed.
import { addon } from "./addon.ts";
import { type Device, devices } from "./tensor.ts";

export class DeviceGraphs {
  private readonly set: number;

  /** @param device "meta": their memory is counted, nothing can be recorded. */
  constructor(device: Device) {
    this.set = addon.graphsCreate(devices.indexOf(device));
  }

  /** Runs `work`, its new tensors in the pool: what it needs of memory is there when it is recorded. */
  run<T>(work: () => T): T {
    addon.graphsOpen(this.set, false);
    try {
      return work();
    } finally {
      addon.graphsClose(this.set);
    }
  }

  /**
   * Records the ops of `work` instead of running them, and gives the graph's number. Tensors that they read or write must
   * live as long as the graph; those that `work` makes and frees itself are the pool's.
   * @throws FAILED_PRECONDITION where `work` waits, moves bytes between host and device or needs new memory.
   */
  record(work: () => void): number {
    addon.graphsOpen(this.set, true);
    let graph = 0;
    try {
      work();
    } finally {
      graph = addon.graphsClose(this.set);
    }
    return graph;
  }

  replay(graph: number): void {
    addon.graphsReplay(this.set, graph);
  }

  forget(graph: number): void {
    addon.graphsForget(this.set, graph);
  }

  free(): void {
    addon.graphsFree(this.set);
  }
}
