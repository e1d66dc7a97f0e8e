// SPDX-License-Identifier: Apache-2.0
//
// Datagram sockets that are connected to a backend which is gone.
#pragma once

#include "service.h"

struct sock_common {
	char unused;
};

int bpf_sock_destroy(struct sock_common *sk) __ksym __weak; // Linux 6.5

struct bpf_iter__udp_polder {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

// Run over all UDP sockets of a namespace: closes those that are connected to a backend which serves no longer. The
// program gets ECONNABORTED, and its next connect another backend.
SEC("iter/udp")
int close_stale(struct bpf_iter__udp_polder *ctx)
{
	struct sock_common *sk = (struct sock_common *)ctx->udp_sk;
	struct translation *t;
	struct frontend *f;

	if (!sk || !bpf_sock_destroy)
		return 0;
	t = bpf_sk_storage_get(&connected, (void *)sk, NULL, 0);
	if (!t || !t->set)
		return 0;
	f = find_frontend(&t->addr, t->port, IPPROTO_UDP);
	if (f && (t->generation == f->generation || find_member(f, &t->backend, 0)))
		return 0;
	bpf_sock_destroy(sk);
	return 0;
}
