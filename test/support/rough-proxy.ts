// A TCP proxy that does to connections what networks do: it cuts them, or goes silent, after so many bytes.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { connect, createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";

export interface Roughness {
  /** Bytes of one direction of a connection after which it happens. */
  after: number;
  what: "cut" | "silence";
  /** How often, in all. Default: once. */
  times?: number;
  /** Default: what comes from the server. */
  direction?: "down" | "up";
}

export interface RoughProxy {
  url: string;
  /** How often it happened. */
  count: number;
  /** Bytes that came from the server. */
  bytesDown: number;
  /** From now on; null: nothing happens any more. */
  set(roughness: Roughness | null): void;
  /** Resolves when it happens the next time. */
  happened(): Promise<void>;
}

export async function startRoughProxy(
  t: TestContext,
  target: string,
  first: Roughness | null = null,
): Promise<RoughProxy> {
  const { hostname, port } = new URL(target);
  let roughness = first;
  let left = first?.times ?? 1;
  const waiting: (() => void)[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect({ host: hostname, port: Number(port) });
    const both = [near, far];
    for (const socket of both) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => {
        sockets.delete(socket);
        for (const other of both) other.destroy();
      });
    }
    const pass = (from: Socket, to: Socket, direction: "down" | "up") => {
      let seen = 0;
      from.on("data", (bytes: Buffer) => {
        seen += bytes.length;
        if (direction === "down") proxy.bytesDown += bytes.length;
        const isDue = roughness !== null && left > 0 && (roughness.direction ?? "down") === direction;
        if (!isDue || seen < (roughness?.after ?? 0)) {
          if (!to.write(bytes)) from.pause();
          return;
        }
        left--;
        proxy.count++;
        if (roughness?.what === "cut") {
          // What came so far arrives, then nothing more.
          to.write(bytes.subarray(0, bytes.length >> 1), () => near.destroy());
        } else from.pause();
        for (const wake of waiting.splice(0)) wake();
      });
      to.on("drain", () => from.resume());
    };
    pass(far, near, "down");
    pass(near, far, "up");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const proxy: RoughProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    count: 0,
    bytesDown: 0,
    set: (next) => {
      roughness = next;
      left = next?.times ?? 1;
    },
    happened: () => new Promise((resolve) => waiting.push(resolve)),
  };
  return proxy;
}
