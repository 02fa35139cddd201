// A process that maps a file of float32 and reads it all; then it cuts the file and reads again, or waits.
//   node map-a-file.ts PATH BYTES cut|wait
import { closeSync, openSync, truncateSync } from "node:fs";
import { countNonfinite, MappedFile, Tensor } from "#native";

const [path = "", bytes = "0", then = ""] = process.argv.slice(2);
const fd = openSync(path, "r");
const file = new MappedFile(fd, Number(bytes), path);
closeSync(fd);
const t = Tensor.mapped(file, 0, "float32", [Number(bytes) / 4], "cpu");
countNonfinite(t);
if (then === "cut") {
  truncateSync(path, 4096);
  countNonfinite(t);
}
process.stdout.write("read\n");
process.stdin.resume();
