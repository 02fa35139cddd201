// `npm start`: the whole stack on this machine until it is told to stop; `nibble start` is the same.
import { main } from "../packages/cli/main.ts";

await main(["start", ...process.argv.slice(2)]);
