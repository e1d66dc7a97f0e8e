// SPDX-License-Identifier: Apache-2.0
//
// The datapath's entry points. Each is a list of stages; a stage returns GO_ON, an outcome, or minus a drop's.
// docs/datapath.md walks a packet through them.
#include "deliver.h"
#include "guard.h"
#include "socket.h"

// A pod may not speak the tunnel's protocol to a node: it would speak for the node it runs on.
static __always_inline _Bool is_tunnel_injection(const struct packet *p)
{
	struct config *cfg = get_config();

	return cfg && p->proto == IPPROTO_UDP && p->ports && p->dport == cfg->tunnel_port;
}

// Where a pod's packet goes.
static __always_inline int route_from_pod(struct __sk_buff *ctx, struct packet *p)
{
	struct endpoint *ep = bpf_map_lookup_elem(&endpoints, &p->dst);
	struct remote *r;

	if (ep && ep->ifindex)
		return ep->shaped || needs_stack(ctx, p) ? TO_STACK : to_pod(ctx, p, ep);
	r = ep ? NULL : find_remote(&p->dst);
	if ((ep || (r && r->host)) && is_tunnel_injection(p))
		return -DROP_TUNNEL_INJECTION;
	if (!r || needs_stack(ctx, p))
		return TO_STACK;
	return to_remote(ctx, p, r);
}

// Ingress of the host's end of a pod's link: everything that a pod sends.
SEC("tc")
int from_pod(struct __sk_buff *ctx)
{
	struct packet p = {};
	int rc = parse(ctx, &p);

	if (rc == TO_STACK)
		rc = p.ethertype == bpf_htons(ETH_P_ARP) ? guard_arp(ctx, &p) : -DROP_NOT_IP;
	else if (rc == GO_ON)
		rc = guard(ctx, &p);
	if (rc == GO_ON)
		rc = route_from_pod(ctx, &p);
	if (rc == TO_SENDER)
		bpf_redirect(ctx->ifindex, 0);
	return finish(ctx, rc);
}

// From another node to a pod of this one.
static __always_inline int deliver_from_node(struct __sk_buff *ctx, struct packet *p, struct endpoint *ep)
{
	return ep->shaped || needs_stack(ctx, p) ? TO_STACK : to_pod(ctx, p, ep);
}

// Ingress of an uplink. The node's own traffic costs one look-up here. What comes from outside the cluster goes
// through the stack both ways, since the stack may have translated it.
SEC("tc")
int from_network(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct config *cfg = get_config();
	struct endpoint *ep;

	if (parse(ctx, &p) != GO_ON || !cfg)
		return finish(ctx, TO_STACK);
	ep = bpf_map_lookup_elem(&endpoints, &p.dst);
	if (!ep || !ep->ifindex)
		return finish(ctx, TO_STACK);
	if (prefix_has(&cfg->pod_cidr[0], &p.src) || prefix_has(&cfg->pod_cidr[1], &p.src))
		return finish(ctx, -DROP_SPOOFED_SOURCE);
	if (!find_remote(&p.src))
		return finish(ctx, TO_STACK);
	return finish(ctx, deliver_from_node(ctx, &p, ep));
}

// Is the outer packet from a node of the cluster, and the inner one from that node or its pods?
static __always_inline int check_tunnel_peer(struct __sk_buff *ctx, const struct packet *p, __u32 vni)
{
	struct bpf_tunnel_key key = {};
	struct remote *outer, *inner;
	struct addr from;

	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0) == 0) {
		from = addr_v4(bpf_htonl(key.remote_ipv4));
	} else if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6) == 0) {
		__builtin_memcpy(&from, key.remote_ipv6, sizeof(from));
	} else {
		return -DROP_UNKNOWN_TUNNEL_PEER;
	}
	outer = find_remote(&from);
	inner = find_remote(&p->src);
	if (key.tunnel_id != vni || !outer || !outer->host || !inner || !addr_equal(&outer->node, &inner->node))
		return -DROP_UNKNOWN_TUNNEL_PEER;
	return GO_ON;
}

// Ingress of the tunnel device.
SEC("tc")
int from_tunnel(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct config *cfg = get_config();
	struct endpoint *ep;
	int rc;

	if (!cfg || parse(ctx, &p) != GO_ON)
		return finish(ctx, -DROP_MALFORMED);
	rc = check_tunnel_peer(ctx, &p, cfg->tunnel_vni);
	if (rc)
		return finish(ctx, rc);
	ep = bpf_map_lookup_elem(&endpoints, &p.dst);
	if (!ep || !ep->ifindex)
		return finish(ctx, TO_STACK);
	return finish(ctx, deliver_from_node(ctx, &p, ep));
}

// Egress of the tunnel device, for packets of the datapath and of the stack alike: names the far end.
SEC("tc")
int to_tunnel(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct config *cfg = get_config();
	struct remote *r;

	if (!cfg || parse(ctx, &p) != GO_ON)
		return finish(ctx, -DROP_MALFORMED);
	r = find_remote(&p.dst);
	if (!r || set_tunnel_key(ctx, &r->node, cfg->tunnel_vni) < 0 || set_tunnel_macs(ctx) < 0)
		return finish(ctx, -DROP_NO_TUNNEL_PEER);
	return TC_ACT_UNSPEC; // counted where it was chosen
}

char __license[] SEC("license") = "Dual BSD/GPL";
