package main

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

func TestAPacketIsWhatTheOtherEndReads(t *testing.T) {
	b := packet(40000, 9003, 7, initChunk(chunkInit, 0x01020304))
	if got, ok := parse(b); !ok || got != (header{from: 40000, to: 9003, verification: 7, initiate: 0x01020304, kind: chunkInit}) {
		t.Errorf("%+v, %v", got, ok)
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if want := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); sum != want {
		t.Errorf("checksum %x, want %x", sum, want)
	}
	if _, ok := parse(b[:20]); ok {
		t.Error("half a chunk is read")
	}
}
