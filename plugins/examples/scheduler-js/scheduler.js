// A scheduler in JavaScript: equal shares within everybody's memory, and everybody is waited for. `../../../wit/policy.wit` is
// the contract; its names are in camel case here, and 64-bit numbers are BigInts.

export const scheduler = {
  init(settings) {
    if (settings.length > 0) throw `there is no setting ${settings[0].key}`;
  },

  place(model, devices, current) {
    const room = devices.map((device) => device.memory / model.groupBytes);
    const owners = new Uint32Array(model.layers * model.groups);
    let next = 0;
    for (let group = 0; group < owners.length; group++) {
      // Round and round, past those that are full.
      let tried = 0;
      while (room[next] === 0n && tried++ < devices.length) next = (next + 1) % devices.length;
      if (room[next] === 0n) throw "the devices have too little memory";
      room[next] -= 1n;
      owners[group] = next;
      next = (next + 1) % devices.length;
    }
    return { owners, standbys: [], tokenUs: 0 };
  },

  admit(round) {
    return { orders: round.debtors.map(() => ({ needed: true, copies: 1 })), patienceUs: 0 };
  },
};
