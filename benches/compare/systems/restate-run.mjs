// Restate with steps that run inside the workflow's handler (`ctx.run`): not remote, but what its tutorials begin with.

import { prepare as prepareRestate } from './restate.mjs';

export { open } from './restate.mjs';

export const prepare = (stage) => prepareRestate(stage, 'inside');
