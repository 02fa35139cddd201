// grpc.health.v1 for a server's services: SERVING from the start, NOT_SERVING on request and while draining.
import { create } from "@bufbuild/protobuf";
import type { HealthCheckResponse } from "#gen/grpc/health/v1/health_pb.ts";
import * as health from "#gen/grpc/health/v1/health_pb.ts";
import { NibbleError } from "#packages/errors";
import type { Implementation } from "./server.ts";
import { implement } from "./server.ts";
import type { CallContext } from "./types.ts";

type ServingStatus = HealthCheckResponse["status"];
const { SERVING, NOT_SERVING, SERVICE_UNKNOWN } = health.HealthCheckResponse_ServingStatus;

export class Health {
  /** By full service name; "" is the server as a whole. */
  readonly #statuses: Map<string, ServingStatus>;
  readonly #watchers = new Set<() => void>();

  constructor(services: string[]) {
    this.#statuses = new Map(["", ...services].map((name) => [name, SERVING]));
  }

  /** Says whether a service ("" for the server) can be used now. */
  set(service: string, isServing: boolean): void {
    this.#statuses.set(service, isServing ? SERVING : NOT_SERVING);
    for (const wake of [...this.#watchers]) wake();
  }

  /** NOT_SERVING for good. */
  close(): void {
    for (const service of this.#statuses.keys()) this.set(service, false);
  }

  async *#watch(service: string, { signal, drainSignal }: CallContext): AsyncGenerator<{ status: ServingStatus }> {
    let last: ServingStatus | undefined;
    for (;;) {
      const status = this.#statuses.get(service) ?? SERVICE_UNKNOWN;
      if (status !== last) yield { status };
      last = status;
      if (drainSignal.aborted || signal.aborted) return;
      const changed = Promise.withResolvers<void>();
      this.#watchers.add(changed.resolve);
      for (const one of [signal, drainSignal]) one.addEventListener("abort", () => changed.resolve(), { once: true });
      if ((this.#statuses.get(service) ?? SERVICE_UNKNOWN) === last) await changed.promise;
      this.#watchers.delete(changed.resolve);
    }
  }

  implementation(): Implementation {
    return implement(health.Health, {
      check: ({ service }) => {
        const status = this.#statuses.get(service);
        if (status !== undefined) return create(health.HealthCheckResponseSchema, { status });
        const message = `service: expected one of this server, got ${JSON.stringify(service)}`;
        throw new NibbleError(message, { code: "NOT_FOUND", op: "health" });
      },
      list: () => ({ statuses: Object.fromEntries([...this.#statuses].map(([name, status]) => [name, { status }])) }),
      watch: ({ service }, context) => this.#watch(service, context),
    });
  }
}
