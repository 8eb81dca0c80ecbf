output "chart_pools" {
  description = "What the chart says of each pool with GPUs, in the form of its value `pools`."

  # What a pool does not have is left out: the chart takes an empty value for a set one.
  value = [
    for name in sort(keys(var.gpu_pools)) : merge(
      {
        name         = name
        nodeSelector = { "strongroom.dev/pool" = google_container_node_pool.gpu[name].name }
        gpu = merge(
          { class = var.gpu_pools[name].accelerator_type },
          { for profile in var.gpu_pools[name].mig_partition[*] : "migProfile" => profile },
          { for clients in var.gpu_pools[name].time_sharing_clients[*] : "timeSlicing" => { clients = clients } },
        )
      },
      { for spot in [true] : "spot" => true if var.gpu_pools[name].spot },
    )
  ]
}
