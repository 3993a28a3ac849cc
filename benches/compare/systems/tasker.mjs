// Tasker, by its own bench: the server, the workers and the client are three processes beside Postgres.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { startPostgres } from '../postgres.mjs';

const STEPS = 5;
const BINARY = fileURLToPath(new URL('../../../target/release/tasker', import.meta.url));
/** Beside what is measured: to start, to check its own work, to end. */
const SPARE_SECONDS = 120;

export async function measure(stage, seconds) {
  if (!existsSync(BINARY)) throw new Error('there is no target/release/tasker; run `make compare`, which builds it');
  const version = (await stage.run(BINARY, ['--version'], { seconds: SPARE_SECONDS })).trim().split(' ').at(-1);
  const url = await startPostgres(stage);
  // Its closed-loop phases are a third of what it is told; before them come two rounds of throughput.
  const args = ['bench', '--json', '--seconds', `${seconds * 3}`, '--database-url', url];
  const printed = await stage.run(BINARY, args, { seconds: seconds * 16 + SPARE_SECONDS });
  const report = JSON.parse(printed);
  const clients = Object.entries(report.chains_per_second).map(([n, rate]) => {
    const times = { p50_ms: report.chain_p50_ms[n], p99_ms: report.chain_p99_ms[n] };
    return [n, { workflows_per_second: rate, steps_per_second: rate * STEPS, ...times }];
  });
  return { version, open_loop_steps_per_second: report.steps_per_second, clients: Object.fromEntries(clients) };
}
